// What a model is: a Hugging Face config.json, reduced to plain numbers that say what is computed.
// The families differ only in these numbers; no code after this file knows a family by name.
//
// A field of config.json that is neither read here nor known to be harmless is refused by its name:
// a model is computed as its configuration says, or not at all. Next: worker/weights.h (the tensors
// that a configuration asks for).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/dense.h"
#include "kvstore/kv_geometry.h"
#include "proto/base/result.h"
#include "worker/rope_config.h"

namespace varve {

struct LayerConfig {
  int64_t window = 0;  // 0: global; W > 0: the query at position p sees (p - W, p]
  int32_t rope = 0;    // index into ModelConfig::ropes; -1: no positions in this layer
};

struct ModelConfig {
  std::string architecture;  // for example "LlamaForCausalLM"
  std::string model_type;    // for example "llama"

  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t num_layers = 0;
  int32_t num_qo_heads = 0;
  int32_t num_kv_heads = 0;  // divides num_qo_heads
  int32_t head_dim = 0;      // even
  int32_t ffn_size = 0;

  float norm_eps = 1e-6F;
  float norm_weight_offset = 0.0F;  // 1: the file stores weight - 1 (Gemma)
  bool has_qk_norm = false;         // RMS norm of each q and k head before RoPE
  bool has_post_norms =
      false;  // norms after attention and after the FFN, before they are added (Gemma)
  Activation activation = Activation::kSilu;
  bool has_qkv_bias = false;
  bool has_o_bias = false;
  bool has_ffn_bias = false;

  float sm_scale = 1.0F;         // scores are sm_scale * q.k
  float attn_softcap = 0.0F;     // 0: none
  float logit_softcap = 0.0F;    // 0: none
  float embedding_scale = 1.0F;  // multiplies token embeddings
  bool tie_word_embeddings = false;

  int64_t max_positions = 0;          // longest sequence
  std::string max_positions_because;  // the field that sets it, for messages

  std::vector<LayerConfig> layers;  // [num_layers]
  std::vector<RopeSpec> ropes;      // distinct ones

  // Hash of the fields that are not known to be harmless.
  uint64_t hash = 0;

  KvGeometry Geometry() const;
};

// Errors: kBadModel (malformed, missing, out of range), kUnsupported (a feature or field), each
// naming the field.
Result<ModelConfig> ParseModelConfig(std::string_view json_text);

}  // namespace varve
