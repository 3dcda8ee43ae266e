// The end of a step: final norm, logits where they are wanted, sampling on the first rank.
// Next: worker/sampler.h
#pragma once

#include <span>

#include "proto/step_plan.h"
#include "worker/rank.h"
#include "worker/task.h"

namespace varve {

// Logits of the last token of sequences that sample and of all tokens of those that asked for all.
// The vocabulary is split over the ranks; rows go through a buffer of rank.logit_rows. `results` is
// empty on ranks other than the first.
// REQUIRES: rank.batch.wants_logits.
Task RunLogits(Rank& rank, std::span<SequenceResult> results);

}  // namespace varve
