// The ranks of one process, and the threads that run them.
//
// A step runs in supersteps: every rank is resumed once and runs until its next exchange; when all
// have come there, the next superstep begins, in which each rank first fetches its part from the
// others' memory and then goes on. So a rank never blocks a thread, any number of ranks runs on any
// number of threads, and an exchange costs one hand-over of a ThreadTeam. Ranks that disagree about
// an exchange are a bug (VARVE_CHECK).
//
// Ownership: the group owns its communicators and the replicated buffers. Threads: Run is called by
// one thread at a time. Next: worker/step.h
#pragma once

#include <coroutine>
#include <memory>
#include <span>
#include <vector>

#include "kernels/thread_team.h"
#include "worker/communicator.h"
#include "worker/task.h"

namespace varve {

class LocalGroup {
 public:
  // `num_threads` threads run the ranks, the caller of Run among them; more than num_ranks are not
  // used.
  LocalGroup(int num_ranks, int num_threads);
  ~LocalGroup();

  int size() const { return static_cast<int>(members_.size()); }
  Communicator& communicator(int rank);

  // Runs one coroutine per rank to its end. tasks[r] uses communicator(r).
  void Run(std::span<Task> tasks);

 private:
  class Member;

  ThreadTeam team_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<std::vector<float>> replicated_;  // in the order in which the ranks ask for them
};

}  // namespace varve
