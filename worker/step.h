// One step of one worker: embed, layers, logits, sample, report. All ranks run this same coroutine;
// it suspends only where ranks exchange data. A decode is a sequence with one token, a prefill
// chunk one with many.
//
// A sequence that fails (no room, a corrupt page) never stops the others. What fails before the
// computation, on whichever rank, drops the sequence from the batch everywhere; what fails inside
// leaves its rows to be computed to the end, because the ranks must go on making the same
// exchanges, and then its tokens are forgotten on every rank. Next: worker/forward.h
#pragma once

#include <cstdint>
#include <span>

#include "proto/step_plan.h"
#include "worker/rank.h"
#include "worker/task.h"

namespace varve {

struct StepJob {
  Epoch epoch;
  uint64_t step = 0;
  // Checked: at most max_step_sequences, each with tokens of the vocabulary, no sequence twice, at
  // most max_step_tokens in all.
  std::span<const SequenceWork* const> work;
};

// Leaves in rank.errors what went wrong on this rank, by index in job.work. The first rank writes
// what was sampled and asked for into `results` (of the length of job.work); for other ranks it is
// empty. `job` outlives the task.
Task RunStep(Rank& rank, const StepJob& job, std::span<SequenceResult> results);

}  // namespace varve
