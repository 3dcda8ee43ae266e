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
#include <new>
#include <utility>
#include <vector>

#include "proto/base/check.h"

namespace varve {

// Memory for coroutine frames, which end in the reverse order of their beginning. Falls back to the
// heap when full.
class FrameArena {
 public:
  explicit FrameArena(size_t bytes) : memory_(bytes / sizeof(Unit)) {}

  void* Allocate(size_t bytes) {
    const size_t units = (bytes + sizeof(Unit) - 1) / sizeof(Unit);
    if (units > memory_.size() - used_) {
      return nullptr;
    }
    void* place = memory_.data() + used_;
    used_ += units;
    return place;
  }
  void Free(const void* place) {
    used_ = static_cast<size_t>(static_cast<const Unit*>(place) - memory_.data());
  }

 private:
  struct alignas(std::max_align_t) Unit {
    std::byte bytes[sizeof(std::max_align_t)];
  };
  std::vector<Unit> memory_;
  size_t used_ = 0;
};

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
        return Place(bytes, &first.frames());
      } else {
        return Place(bytes, nullptr);
      }
    }
    static void* operator new(size_t bytes) { return Place(bytes, nullptr); }
    static void operator delete(void* frame, size_t /*bytes*/) {
      Header* header = static_cast<Header*>(frame) - 1;
      if (header->arena != nullptr) {
        header->arena->Free(header);
      } else {
        ::operator delete(header);
      }
    }

   private:
    friend class Task;
    struct alignas(std::max_align_t) Header {
      FrameArena* arena;
    };
    struct Final {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> ended) noexcept {
        const std::coroutine_handle<> caller = ended.promise().caller_;
        return caller ? caller : std::noop_coroutine();
      }
      void await_resume() noexcept {}
    };

    static void* Place(size_t bytes, FrameArena* arena) {
      void* place = arena != nullptr ? arena->Allocate(bytes + sizeof(Header)) : nullptr;
      if (place == nullptr) {
        arena = nullptr;
        place = ::operator new(bytes + sizeof(Header));
      }
      return new (place) Header{arena} + 1;
    }

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
