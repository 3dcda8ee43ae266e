// Wakes the engine now and then, so that contexts whose time to live is over are deleted. What has
// expired is decided by the catalog and its clock; this only says when to look.
//
// Threads: its own; the constructor and destructor from any.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace varve {

class ContextExpiry {
 public:
  // Calls `look` every `interval_ms`, the first time after as long.
  ContextExpiry(int interval_ms, std::function<void()> look);
  // Joins; no call is made any more.
  ~ContextExpiry();
  ContextExpiry(const ContextExpiry&) = delete;
  ContextExpiry& operator=(const ContextExpiry&) = delete;

 private:
  void Loop();

  const int interval_ms_;
  const std::function<void()> look_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace varve
