// Memory for the frames of coroutines, which end in the reverse order of their beginning.
// Next: worker/task.h
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace varve {

class FrameArena {
 public:
  explicit FrameArena(size_t bytes) : memory_(bytes / sizeof(Unit)) {}

  // Null when there is no room.
  void* Allocate(size_t bytes) {
    const size_t units = (bytes + sizeof(Unit) - 1) / sizeof(Unit);
    if (units > memory_.size() - used_) {
      return nullptr;
    }
    void* place = memory_.data() + used_;
    used_ += units;
    return place;
  }
  // Frees `place` and all that was allocated after it.
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

// A frame and, before it, where it came from: an arena, or the heap where there is none or it is
// full.
class Frame {
 public:
  // Not inlined: gcc 12 would take the heap's new for a mismatch with the coroutine's delete.
  [[gnu::noinline]] static void* Allocate(size_t bytes, FrameArena* arena) {
    void* place = arena != nullptr ? arena->Allocate(bytes + sizeof(Header)) : nullptr;
    if (place == nullptr) {
      arena = nullptr;
      place = ::operator new(bytes + sizeof(Header));
    }
    return new (place) Header{arena} + 1;
  }
  static void Free(void* frame) {
    Header* header = static_cast<Header*>(frame) - 1;
    if (header->arena != nullptr) {
      header->arena->Free(header);
    } else {
      ::operator delete(header);
    }
  }

 private:
  struct alignas(std::max_align_t) Header {
    FrameArena* arena;
  };
};

}  // namespace varve
