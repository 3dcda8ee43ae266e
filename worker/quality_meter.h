// The quality meter: for a sampled share of steps and layers, what attention over every page would
// have given, beside what a request that reads some of its context's pages was served.
//
// Metered is the last token of a sequence's step, in every head. Every rank attends exactly over
// its own pages; the rank that merges a head compares. Which steps and layers are sampled follows
// from sequence, position and layer, so that all ranks agree.
//
// Threads: those of the rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "proto/step_plan.h"

namespace varve {

struct Rank;
struct Batch;

// What a rank keeps for it.
struct QualityMeter {
  double share = 0.0;  // of steps and layers

  // Of the layer at hand.
  std::vector<size_t> parts;  // metered ones, as numbers in the batch
  std::vector<float> o;       // [parts, num_qo_heads, head_dim], exact, over the own pages
  // [parts, num_qo_heads, 2]: lse of all own pages, and of those that the request read.
  std::vector<float> masses;
  // Of the step. [num work]
  std::vector<std::vector<QualitySample>> samples;
};

// Attends exactly where the layer is metered. Must follow the layer's attention; a read that fails
// is no sample.
void MeterLayer(Rank& rank, int32_t layer);

// A rank's numbers of one part.
struct MeteredState {
  const float* o = nullptr;       // [num_heads, head_dim]
  const float* masses = nullptr;  // [num_heads, 2]
};
// Adds the samples of a metered part's heads. states: of all ranks; served: [num_heads, head_dim].
void CompareWithServed(Rank& rank,
                       size_t metered,
                       std::span<const MeteredState> states,
                       size_t num_heads,
                       const float* served);

}  // namespace varve
