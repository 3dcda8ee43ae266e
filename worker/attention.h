// Attention over the pages of all workers: store the new k and v, attend all q heads over the own
// pages, exchange the states by head slice, merge the own slice. Queries go to where the KV lives;
// states come back. Next: kvstore/kv_store.h (which pages there are), then kernels/attend.h (what
// is done with them).
#pragma once

#include <cstdint>
#include <span>

#include "worker/rank.h"
#include "worker/task.h"

namespace varve {

struct AttentionOutput {
  const float* data = nullptr;  // [T, own heads, head_dim]
  size_t stride = 0;            // floats from one token to the next
};

// Stores the own ones of the step's keys and values in rank.qkv. The first half of RunAttention,
// and all that is left of a layer that nobody reads.
void AppendKv(Rank& rank, int32_t layer);

// Reads rank.qkv. `output` points into the rank's buffers, until the next layer.
Task RunAttention(Rank& rank, int32_t layer, AttentionOutput& output);

// One state of many to merge: of a token, the heads of one rank.
struct StateView {
  const float* o = nullptr;    // [num_heads, head_dim]
  const float* lse = nullptr;  // [num_heads]
};

inline constexpr size_t kMaxStates = 256;

// Merges the states in their order, as WeighMerge (kernels/attn_state.h) does two: o = sum of
// exp(lse_i - m) o_i over the sum of exp(lse_i - m). The o of an empty state (lse = -infinity) is
// not read. All empty: zero. out: [num_heads, head_dim]. REQUIRES: at most kMaxStates states.
void MergeStates(std::span<const StateView> states, size_t num_heads, size_t head_dim, float* out);

}  // namespace varve
