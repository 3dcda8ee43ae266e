// The coroutine type of a worker's step: straight-line code that suspends only where it waits for
// other workers. A task starts when it is awaited (or first resumed by whoever runs it) and
// continues its caller when it ends.
//
// Frames come from the FrameArena of the coroutine's first parameter, if it has one
// (`first.frames()`), so that a step does not allocate; else from the heap.
//
// Threads: a task runs on one thread at a time, not necessarily always the same.
#pragma once

#include <coroutine>
#include <cstddef>
#include <utility>

#include "proto/base/check.h"
#include "worker/frame_arena.h"

namespace varve {

class [[nodiscard]] Task {
 public:
  class promise_type {
   public:
    Task get_return_object() { return Task(Handle::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept { return Final{}; }
    void return_void() {}
    void unhandled_exception() { VARVE_UNREACHABLE("an exception left a step"); }

    template <typename First, typename... Rest>
    static void* operator new(size_t bytes, First& first, Rest&...) {
      if constexpr (requires { first.frames().Allocate(bytes); }) {
        return Frame::Allocate(bytes, &first.frames());
      } else {
        return Frame::Allocate(bytes, nullptr);
      }
    }
    static void* operator new(size_t bytes) { return Frame::Allocate(bytes, nullptr); }
    static void operator delete(void* frame, size_t /*bytes*/) { Frame::Free(frame); }

   private:
    friend class Task;
    struct Final {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> ended) noexcept {
        const std::coroutine_handle<> caller = ended.promise().caller_;
        return caller ? caller : std::noop_coroutine();
      }
      void await_resume() noexcept {}
    };

    std::coroutine_handle<> caller_;
  };
  using Handle = std::coroutine_handle<promise_type>;

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) {
      handle_.destroy();
    }
  }

  // For whoever runs the outermost task.
  std::coroutine_handle<> handle() const { return handle_; }
  bool done() const { return handle_.done(); }

  // co_await task: runs it; continues the caller when it has ended.
  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) noexcept {
    handle_.promise().caller_ = caller;
    return handle_;
  }
  void await_resume() const noexcept {}

 private:
  explicit Task(Handle handle) : handle_(handle) {}
  Handle handle_;
};

}  // namespace varve
