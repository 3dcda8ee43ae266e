// The squared gradients of a model's loss with respect to its keys and values, which weigh what
// codecs are fitted to: a safetensors file, made by `ops/calibration/gradients`, bound to a model
// and to the tokens that it was made from. With N tokens in S sequences it holds
//
//   model_hash         I64  [1]
//   sequence_lengths   I32  [S]
//   tokens             I32  [N]                            of all sequences, one behind the other
//   layer.{layer}.k    BF16 [N, num_kv_heads, head_dim]    of keys before RoPE
//   layer.{layer}.v    BF16 [N, num_kv_heads, head_dim]
//
// The first three alone are the file that tells the script which tokens to take.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/codec/codec.h"
#include "proto/base/result.h"
#include "worker/model_config.h"
#include "worker/safetensors.h"

namespace varve {

using TokenSequences = std::vector<std::vector<int32_t>>;

// What `ops/calibration/gradients` reads. Replaces the file as a whole.
Result<void> SaveCalibrationTokens(const std::string& path,
                                   uint64_t model_hash,
                                   const TokenSequences& sequences);

class Sensitivity {
 public:
  // Everything is checked here. Errors: kModelMismatch (of another model), kInvalidArgument (of
  // other tokens, naming the first that differs), kBadModel (damaged, of another shape, negative or
  // not a number), kNotFound, kIoError.
  static Result<Sensitivity> Open(const std::string& path,
                                  const ModelConfig& config,
                                  uint64_t model_hash,
                                  const TokenSequences& sequences);

  // k_sensitivity and v_sensitivity of each layer. The first `num_exact` tokens of a sequence weigh
  // nothing: no codec ever sees them. REQUIRES: samples, [num_layers], are of the model and the
  // sequences that the file was opened for, in their order.
  void FillIn(int32_t num_exact, std::vector<CalibrationSample>* samples) const;

 private:
  explicit Sensitivity(SafetensorsModel file) : file_(std::move(file)) {}

  SafetensorsModel file_;
  std::vector<int32_t> positions_;  // [N], of each token in its sequence
};

}  // namespace varve
