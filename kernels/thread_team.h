// A team of threads for data-parallel loops inside one worker. The caller is a member: a team of
// one runs the loop inline.
//
// Threads: ParallelFor is called by one thread at a time (the owner). Between loops the other
// members spin for a short time and then sleep, so that loops that follow each other closely cost
// about a microsecond and an idle server costs nothing.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <type_traits>

namespace varve {

class ThreadTeam {
 public:
  // REQUIRES: num_threads >= 1.
  explicit ThreadTeam(int num_threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int num_threads() const;

  // Calls body(index, thread) for every index in [0, count), in any order, each once; `thread` in
  // [0, num_threads()) is free of other callers meanwhile (for scratch memory). Returns when all
  // are done. Does not allocate. Not re-entrant.
  template <typename Body>
  void ParallelFor(size_t count, Body&& body) {
    using Raw = std::remove_reference_t<Body>;
    RunLoop(
        count,
        [](void* context, size_t index, int thread) {
          (*static_cast<Raw*>(context))(index, thread);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void* context, size_t index, int thread);
  void RunLoop(size_t count, Call call, void* context);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve
