#include "worker/fair_mutex.h"

#include <atomic>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>

namespace varve {
namespace {

// One thread takes the lock back the instant it has freed it; the other must get it soon all the
// same.
TEST(FairMutex, AWaiterGetsTheNextTurn) {
  FairMutex mutex;
  std::atomic<bool> waiting = false;
  std::atomic<bool> served = false;
  mutex.lock();
  std::thread other([&] {
    waiting = true;
    const std::lock_guard guard(mutex);
    served = true;
  });
  while (!waiting) {
    std::this_thread::yield();
  }
  int turns = 0;
  while (!served && turns < 1'000'000) {
    mutex.unlock();
    mutex.lock();
    ++turns;
  }
  mutex.unlock();
  other.join();
  EXPECT_LT(turns, 1'000'000);
}

TEST(FairMutex, ExcludesOthers) {
  FairMutex mutex;
  int count = 0;
  std::thread threads[4];
  for (std::thread& thread : threads) {
    thread = std::thread([&] {
      for (int i = 0; i < 1000; ++i) {
        const std::lock_guard guard(mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(count, 4000);
}

}  // namespace
}  // namespace varve
