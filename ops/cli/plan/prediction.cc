#include "ops/cli/plan/prediction.h"

#include <algorithm>

#include "ops/cli/bench/step_cost.h"

namespace varve::cli {
namespace {

// A layer gathers its input twice, its heads once, exchanges states once and adds up twice.
constexpr double kExchangesPerLayer = 6;
constexpr double kPageTokens = 128;

// Tokens that the layers see, added up.
struct Seen {
  double global = 0;
  double windowed = 0;
};

Seen SeenBy(const ModelConfig& model, int64_t tokens) {
  Seen seen;
  for (const LayerConfig& layer : model.layers) {
    const auto all = static_cast<double>(tokens);
    if (layer.window > 0) {
      seen.windowed += std::min(static_cast<double>(layer.window), all);
    } else {
      seen.global += all;
    }
  }
  return seen;
}

double WorkOf(const CodecWork& work, const ModelConfig& model) {
  const double group = static_cast<double>(model.num_qo_heads) / model.num_kv_heads;
  return work.decode + group * (work.per_query + work.per_row / model.head_dim);
}

}  // namespace

Predictor::Predictor(const Machine& machine,
                     const ModelConfig& model,
                     int num_workers,
                     double bytes_per_weight)
    : machine_(machine),
      model_(model),
      num_workers_(num_workers),
      bytes_per_weight_(bytes_per_weight) {}

PlannedStep Predictor::Decode(int64_t tokens, double share, const PlannedReads& reads) const {
  const StepCost cost(model_, bytes_per_weight_, 0);
  const Seen seen = SeenBy(model_, tokens);
  const double kv_values = static_cast<double>(model_.num_kv_heads) * model_.head_dim;
  const double read_rate = machine_.read_bandwidth * Machines();
  PlannedStep step;
  step.weights_s = cost.WeightBytes() / (read_rate * machine_.weights_efficiency);

  const auto found = machine_.codec_work.find(reads.codec);
  const double values = 2 * kv_values * (seen.global * share + seen.windowed);
  const double computed_s =
      found == machine_.codec_work.end() ? 0.0 : values * WorkOf(found->second, model_) / Flops();
  const double read_s = (reads.device_bytes + reads.host_bytes + reads.disk_bytes) /
                        (read_rate * machine_.kv_efficiency);
  const double host_s = reads.host_bytes / (machine_.host_bandwidth * Machines());
  const double disk_s = reads.disk_bytes / (machine_.disk_bandwidth * Machines());
  // Reads run ahead of attention. Where the same cores verify what was read they add up.
  step.attention_s = machine_.workers_share ? std::max(computed_s, read_s) + disk_s
                                            : std::max({computed_s, read_s, host_s, disk_s});
  if (share < 1) {
    const double sketched_s =
        kv_values * seen.global * WorkOf(machine_.sketch_work, model_) / Flops();
    step.sketch_s = std::max(sketched_s, reads.sketch_bytes / (read_rate * machine_.kv_efficiency));
    step.fixed_s += seen.global * share / kPageTokens * machine_.held_page_us * 1e-6 / Machines();
  }
  const double exchanges = num_workers_ > 1 ? kExchangesPerLayer * machine_.exchange_us : 0.0;
  step.fixed_s += model_.num_layers * (machine_.layer_us + exchanges) * 1e-6;
  return step;
}

double Predictor::Prefill(int64_t first, int64_t tokens) const {
  const StepCost cost(model_, bytes_per_weight_, 0);
  const double count = static_cast<double>(tokens) * model_.num_layers;
  const double sealed = count * 2 * model_.num_kv_heads * model_.head_dim;
  return (cost.DenseFlops(tokens) / machine_.matmul_efficiency +
          cost.AttentionFlops(first, tokens) / machine_.attention_efficiency +
          count * model_.hidden_size * machine_.token_work + sealed * machine_.encode_work) /
         Flops();
}

}  // namespace varve::cli
