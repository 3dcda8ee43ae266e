// The threads that wait for the disk: a queue of jobs and a fixed number of threads that run them
// in order of arrival.
//
// Threads: Submit from any thread. The destructor runs what was submitted, then returns.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace varve {

class IoPool {
 public:
  // REQUIRES: num_threads >= 1.
  explicit IoPool(int num_threads);
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()); }
  void Submit(std::function<void()> job);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  bool stopping_ = false;                   // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace varve
