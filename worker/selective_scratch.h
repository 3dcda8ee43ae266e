// Buffers of selective attention that a rank keeps from layer to layer; they grow to the largest
// use.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "worker/page_sampler.h"
#include "worker/sampled_attention.h"

namespace varve {

struct SelectiveScratch {
  PageSampler sampler;
  std::map<double, ErrorStatement> statements;  // by delta

  // Of the tokens at hand, T of them.
  std::vector<float> estimates;  // [pages, T, num_qo_heads] lse
  std::vector<float> highest;    // [T, num_qo_heads] lse
  std::vector<float> totals;     // [T, num_qo_heads]
  std::vector<float> sizes;      // [pages]
  std::vector<float> draws;      // [pages]
  std::vector<int32_t> slots;    // [pages]; where a page's states are held, -1: not read
  std::vector<float> sure_o;     // [T, num_qo_heads, head_dim] of what is always read
  std::vector<float> sure_lse;   // [T, num_qo_heads]
  std::vector<float> held_o;     // [slots, T, num_qo_heads, head_dim]
  std::vector<float> held_lse;   // [slots, T, num_qo_heads]
  std::vector<int64_t> held;     // [slots]; index of the page
  std::vector<float> chances;    // [slots]
  std::vector<float> errors;     // [T, num_qo_heads]
  std::vector<std::vector<float>> of_threads;

  // Of the layer. [T, num_qo_heads, MomentFloats]; empty until a sequence attends selectively.
  std::vector<float> moments;
  // [num work, num_qo_heads]: lse of the pages that were read, of each sequence's last token.
  std::vector<float> read_lse;
};

}  // namespace varve
