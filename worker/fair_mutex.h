// A mutex that serves its waiters in the order in which they came. The engine takes the stores'
// lock for every step and frees it for an instant only: an ordinary mutex might never let anyone
// else in.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace varve {

class FairMutex {
 public:
  void lock() {
    std::unique_lock guard(mutex_);
    const uint64_t ticket = next_ticket_++;
    turn_.wait(guard, [&] { return ticket == serving_; });
  }
  void unlock() {
    {
      const std::lock_guard guard(mutex_);
      ++serving_;
    }
    turn_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turn_;
  uint64_t next_ticket_ = 0;
  uint64_t serving_ = 0;
};

}  // namespace varve
