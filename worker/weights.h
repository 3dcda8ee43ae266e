// The weights of a model as the forward pass reads them: views into memory-mapped files, every
// shape checked against the configuration, nothing copied; or of int8 blocks that were made of them
// (worker/int8_weights.h). Next: worker/rank.h (which rows and columns of them a worker computes
// with).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "proto/base/result.h"
#include "worker/int8_weights.h"
#include "worker/model_config.h"
#include "worker/safetensors.h"

namespace varve {

// A vector of weights: a bias or the weight of a norm. Absent: data is null.
struct VectorView {
  const void* data = nullptr;  // [size] of dtype
  DType dtype = DType::kF32;
  size_t size = 0;

  VectorView Slice(size_t begin, size_t count) const;
};

struct LayerWeights {
  VectorView input_norm;  // [hidden]
  VectorView
      post_attention_norm;   // [hidden]; of the attention's output, absent without has_post_norms
  VectorView pre_ffn_norm;   // [hidden]
  VectorView post_ffn_norm;  // [hidden]; absent without has_post_norms
  VectorView q_norm;         // [head_dim]; absent without has_qk_norm
  VectorView k_norm;

  WeightView q;  // [num_qo_heads * head_dim, hidden]
  WeightView k;  // [num_kv_heads * head_dim, hidden]
  WeightView v;
  WeightView o;  // [hidden, num_qo_heads * head_dim]
  VectorView q_bias;
  VectorView k_bias;
  VectorView v_bias;
  VectorView o_bias;

  WeightView gate;  // [ffn, hidden]
  WeightView up;    // [ffn, hidden]
  WeightView down;  // [hidden, ffn]
  VectorView gate_bias;
  VectorView up_bias;
  VectorView down_bias;
};

struct ModelWeights {
  WeightView embedding;   // [vocab, hidden]
  WeightView lm_head;     // [vocab, hidden]; the embedding, if tied
  VectorView final_norm;  // [hidden]
  std::vector<LayerWeights> layers;
  uint64_t bytes = 0;  // of all tensors, as they are held
  // Identity of configuration and weights: Hash64 over the configuration's hash and, in order of
  // names, each tensor's name, dtype, shape and bytes. Of models over 1 GiB, the bytes of a tensor
  // are represented by its first and last 64 KiB and 64 KiB at every multiple of 16 MiB.
  // Independent of how tensors are spread over shards.
  uint64_t model_hash = 0;

  SafetensorsModel files;  // owns what the views point into
  WeightBlocks blocks;     // or this does
};

// Errors: kBadModel naming the tensors that are missing, not expected, or of the wrong shape or
// dtype.
Result<ModelWeights> LoadWeights(const std::string& directory, const ModelConfig& config);

}  // namespace varve
