#include "ops/cli/bench/step_cost.h"

#include <algorithm>

#include "kernels/weight_block.h"

namespace varve::cli {
namespace {

double Values(int32_t heads, const ModelConfig& config) {
  return static_cast<double>(heads) * config.head_dim;
}

double LayerParams(const ModelConfig& config) {
  const double hidden = config.hidden_size;
  const double qo = Values(config.num_qo_heads, config);
  const double kv = Values(config.num_kv_heads, config);
  return hidden * (2 * qo + 2 * kv) + 3 * hidden * config.ffn_size;
}

double VocabParams(const ModelConfig& config) {
  return static_cast<double>(config.hidden_size) * config.vocab_size;
}

double Seen(const LayerConfig& layer, double tokens) {
  return layer.window > 0 ? std::min(static_cast<double>(layer.window), tokens) : tokens;
}

}  // namespace

double Int8BytesPerWeight() {
  return static_cast<double>(sizeof(WeightBlock)) / (kWeightPanelRows * kWeightGroupCols);
}

double StoredParams(const ModelConfig& config) {
  return config.num_layers * LayerParams(config) +
         (config.tie_word_embeddings ? 1 : 2) * VocabParams(config);
}

double BytesPerWeight(const ModelConfig& config, double weight_bytes, const std::string& weights) {
  return weights == "int8" ? Int8BytesPerWeight() : weight_bytes / StoredParams(config);
}

StepCost::StepCost(const ModelConfig& config, double bytes_per_weight, double kv_bits)
    : config_(config), bytes_per_weight_(bytes_per_weight), kv_bits_(kv_bits) {}

double StepCost::DenseFlops(int64_t tokens) const {
  return 2 * static_cast<double>(tokens) * config_.num_layers * LayerParams(config_);
}

double StepCost::AttentionFlops(int64_t first, int64_t tokens) const {
  const auto count = static_cast<double>(tokens);
  double flops = 0;
  for (const LayerConfig& layer : config_.layers) {
    flops += count * 4 * Values(config_.num_qo_heads, config_) *
             Seen(layer, static_cast<double>(first) + count / 2);
  }
  return flops;
}

double StepCost::WeightBytes() const {
  return bytes_per_weight_ * (config_.num_layers * LayerParams(config_) + VocabParams(config_));
}

double StepCost::KvBytes(int64_t tokens) const {
  double bytes = 0;
  for (const LayerConfig& layer : config_.layers) {
    bytes += 2 * Values(config_.num_kv_heads, config_) * kv_bits_ / 8 *
             Seen(layer, static_cast<double>(tokens));
  }
  return bytes;
}

}  // namespace varve::cli
