#include "kernels/thread_team.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(ThreadTeam, CallsEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadTeam team(threads);
    EXPECT_EQ(team.num_threads(), threads);
    for (const size_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(count);
      team.ParallelFor(count, [&](size_t index, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        calls[index].fetch_add(1);
      });
      for (const std::atomic<int>& call : calls) {
        EXPECT_EQ(call.load(), 1);
      }
    }
  }
}

TEST(ThreadTeam, ThreadNumberIsFreeOfOtherCallers) {
  ThreadTeam team(4);
  std::vector<int64_t> scratch(4, 0);  // not atomic: TSan would see two callers
  for (int loop = 0; loop < 200; ++loop) {
    team.ParallelFor(16, [&](size_t index, int thread) { scratch[thread] += index; });
  }
  int64_t sum = 0;
  for (const int64_t part : scratch) {
    sum += part;
  }
  EXPECT_EQ(sum, 200 * 120);
}

TEST(ThreadTeam, ResultsAreVisibleAfterTheLoop) {
  ThreadTeam team(3);
  std::vector<int> values(64, 0);
  for (int loop = 0; loop < 2000; ++loop) {
    team.ParallelFor(values.size(), [&](size_t index, int /*thread*/) { ++values[index]; });
    ASSERT_EQ(values[loop % 64], loop + 1);
  }
}

TEST(ThreadTeam, WakesMembersThatSleep) {
  ThreadTeam team(2);
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    // Ends only if both members take part: each waits for the other.
    std::atomic<int> arrived{0};
    team.ParallelFor(2, [&](size_t /*index*/, int /*thread*/) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) {
        std::this_thread::yield();
      }
    });
    EXPECT_EQ(arrived.load(), 2);
  }
}

TEST(ThreadTeam, ManyTeamsRunAtOnce) {
  std::vector<std::thread> owners;
  std::atomic<int64_t> sum{0};
  for (int owner = 0; owner < 4; ++owner) {
    owners.emplace_back([&sum] {
      ThreadTeam team(2);
      for (int loop = 0; loop < 100; ++loop) {
        team.ParallelFor(10, [&](size_t index, int /*thread*/) { sum.fetch_add(index); });
      }
    });
  }
  for (std::thread& owner : owners) {
    owner.join();
  }
  EXPECT_EQ(sum.load(), 4 * 100 * 45);
}

TEST(ThreadTeam, StartsAndStopsWithoutALoop) {
  for (int i = 0; i < 20; ++i) {
    const ThreadTeam team(3);
    EXPECT_EQ(team.num_threads(), 3);
  }
}

}  // namespace
}  // namespace varve
