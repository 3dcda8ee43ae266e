// Sees the queries, keys and values of every step of one worker: for calibration and measurement.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace varve {

class KvProbe {
 public:
  virtual ~KvProbe() = default;
  // qkv: [num_tokens, stride]; the first floats of a row are num_qo_heads q heads, then
  // num_kv_heads k heads, then as many v heads, of head_dim each, all after RoPE. The last layer
  // computes q only for tokens whose logits are wanted. Called from the worker's thread, before the
  // layer attends.
  virtual void Observe(int32_t layer,
                       std::span<const int64_t> positions,
                       const float* qkv,
                       size_t stride) = 0;
};

}  // namespace varve
