// Attention that reads the pages of a context that matter, and a random sample of the others, until
// the error that it estimates for its output is small enough: the second half of a rank's attention
// over a sequence that asks for it, after what is always read (sinks, recent tokens, what the
// request wrote itself).
//
// For up to kRowTokens tokens at a time:
//   1. the store estimates each page's mass for each query and head (kvstore/key_sketch.h)
//   2. the larger the masses, the more probably a page is read (worker/page_sampler.h); the large
//      ones are read for sure
//   3. the error of the output is estimated from what was read (worker/sampled_attention.h); while
//      that of any query and head is above epsilon and the budget is not spent, more pages are read
//
// A rank decides alone, by the error of its own pages' attention: ranks' errors are independent, so
// that of the merged attention is smaller than the largest of them. What is stated is computed from
// all ranks' moments, by the rank that merges a head.
//
// Threads: those of the rank.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "worker/page_sampler.h"
#include "worker/rank.h"
#include "worker/sampled_attention.h"

namespace varve {

// Attends, on top of the state in params.o and params.lse (o is zero where lse is -infinity), to
// what the store lets a selective sequence leave out; params.views is not used. Fills the part's
// rows of rank.selective.moments. Errors: as PageCursor::Next.
Result<void> AttendSelectively(Rank& rank,
                               int32_t layer,
                               const Batch::Part& part,
                               const AttendParams& params);

// Zero moments for a part whose attention was exact.
void ClearMoments(Rank& rank, const Batch::Part& part);

// States the error of one token of a selective part over the rank's heads, from the states of all
// ranks and their merge. states: [num_ranks], each of [own heads, head_dim]; moments: [num_ranks],
// each of [own heads, MomentFloats]; merged: [own heads, head_dim].
struct RankMoments {
  const float* o = nullptr;
  const float* lse = nullptr;
  const float* moments = nullptr;
};
void StateError(Rank& rank,
                const Batch::Part& part,
                std::span<const RankMoments> ranks,
                size_t num_heads,
                const float* merged);

}  // namespace varve
