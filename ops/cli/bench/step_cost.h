// What a step of a model has to move and to compute, from its configuration: the roofs of the
// benches, and what `varve plan` begins with.
#pragma once

#include <cstdint>
#include <string>

#include "worker/model_config.h"

namespace varve::cli {

// Bytes of a weight that is held in int8, scales included.
double Int8BytesPerWeight();
// Matrix parameters of a checkpoint, embedding and lm_head included; without norms and biases.
double StoredParams(const ModelConfig& config);

class StepCost {
 public:
  // bytes_per_weight: of the matrices of the layers and the lm_head. kv_bits: for each value of K
  // and V, everything stored with it included. `config` outlives this.
  StepCost(const ModelConfig& config, double bytes_per_weight, double kv_bits);

  // Operations (a multiplication and an addition are two) of the layers over `tokens` tokens behind
  // `first` others: matrix products, and attention over what each may see.
  double PrefillFlops(int64_t first, int64_t tokens) const {
    return DenseFlops(tokens) + AttentionFlops(first, tokens);
  }
  double DenseFlops(int64_t tokens) const;
  double AttentionFlops(int64_t first, int64_t tokens) const;
  // Bytes that one decoded token behind `tokens` others reads.
  double DecodeBytes(int64_t tokens) const { return WeightBytes() + KvBytes(tokens); }
  double WeightBytes() const;
  double KvBytes(int64_t tokens) const;

 private:
  const ModelConfig& config_;
  const double bytes_per_weight_;
  const double kv_bits_;
};

// Bytes per weight of a model in files of `weight_bytes` bytes, held as `weights` says: auto or
// int8.
double BytesPerWeight(const ModelConfig& config, double weight_bytes, const std::string& weights);

}  // namespace varve::cli
