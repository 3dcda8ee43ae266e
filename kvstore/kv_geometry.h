// The shape of a model's KV, as the store needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/codec/table_set.h"
#include "kernels/rope.h"

namespace varve {

struct KvGeometry {
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  // Per layer: 0 for a global layer; W > 0 for a sliding-window layer, where the query at position
  // p sees (p - W, p].
  std::vector<int64_t> layer_windows;  // [num_layers]
  // By which each layer's keys were rotated: [num_layers], null for layers without positions.
  // Empty: no layer has any.
  std::vector<std::shared_ptr<const Rope>> layer_ropes;
  // Calibrated tables of codecs for this model; null: none.
  std::shared_ptr<const CodecTableSet> codec_tables;

  // What the token policies need to know of the queries; 0 heads: none are shown to the store.
  int32_t num_qo_heads = 0;
  float sm_scale = 1.0F;
  float attn_softcap = 0.0F;  // 0: none

  int32_t num_layers() const { return static_cast<int32_t>(layer_windows.size()); }
};

// Which worker of how many: page p of a context belongs to worker (p + offset(context)) mod
// num_workers.
struct Shard {
  int32_t rank = 0;
  int32_t num_workers = 1;
};

}  // namespace varve
