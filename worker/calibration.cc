#include "worker/calibration.h"

#include <algorithm>

namespace varve {

CalibrationCollector::CalibrationCollector(const ModelConfig& config)
    : config_(config), geometry_(config.Geometry()) {
  const auto head_dim = static_cast<size_t>(config.head_dim);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    CalibrationSample& sample = samples_.emplace_back();
    sample.num_kv_heads = config.num_kv_heads;
    sample.head_dim = config.head_dim;
    sample.has_rope = geometry_.layer_ropes[static_cast<size_t>(layer)] != nullptr;
    sample.q_moment.resize(static_cast<size_t>(config.num_kv_heads) * head_dim * head_dim);
  }
}

void CalibrationCollector::Observe(int32_t layer,
                                   std::span<const int64_t> positions,
                                   const float* qkv,
                                   size_t stride) {
  CalibrationSample& sample = samples_[static_cast<size_t>(layer)];
  const Rope* rope = geometry_.layer_ropes[static_cast<size_t>(layer)].get();
  const auto head_dim = static_cast<size_t>(config_.head_dim);
  const auto qo_heads = static_cast<size_t>(config_.num_qo_heads);
  const auto kv_heads = static_cast<size_t>(config_.num_kv_heads);
  std::vector<float> row(head_dim);
  for (size_t t = 0; t < positions.size(); ++t) {
    const float* token = qkv + t * stride;
    const auto before_rope = [&](const float* x) {
      std::copy_n(x, head_dim, row.data());
      if (rope != nullptr) {
        TurnRowsBack(*rope, {.first = positions[t]}, 1, row.data());
      }
    };
    for (size_t head = 0; head < qo_heads; ++head) {
      before_rope(token + head * head_dim);
      AddQuery(row.data(), static_cast<int32_t>(head * kv_heads / qo_heads), sample);
    }
    const float* k = token + qo_heads * head_dim;
    for (size_t head = 0; head < kv_heads; ++head) {
      before_rope(k + head * head_dim);
      sample.k.insert(sample.k.end(), row.begin(), row.end());
    }
    const float* v = k + kv_heads * head_dim;
    sample.v.insert(sample.v.end(), v, v + kv_heads * head_dim);
    ++sample.num_tokens;
  }
}

// q q^T of one query, into the upper triangle.
void CalibrationCollector::AddQuery(const float* q,
                                    int32_t kv_head,
                                    CalibrationSample& sample) const {
  const auto head_dim = static_cast<size_t>(config_.head_dim);
  double* moment = sample.q_moment.data() + static_cast<size_t>(kv_head) * head_dim * head_dim;
  for (size_t i = 0; i < head_dim; ++i) {
    const auto scaled = static_cast<double>(q[i] * config_.sm_scale);
    for (size_t j = i; j < head_dim; ++j) {
      moment[i * head_dim + j] += scaled * (q[j] * config_.sm_scale);
    }
  }
}

std::vector<CalibrationSample> CalibrationCollector::Take() {
  const auto head_dim = static_cast<size_t>(config_.head_dim);
  const double per_head = config_.num_qo_heads / static_cast<double>(config_.num_kv_heads);
  for (CalibrationSample& sample : samples_) {
    VARVE_CHECK(sample.num_tokens > 0);
    const double count = per_head * static_cast<double>(sample.num_tokens);
    for (size_t head = 0; head < static_cast<size_t>(sample.num_kv_heads); ++head) {
      double* moment = sample.q_moment.data() + head * head_dim * head_dim;
      for (size_t i = 0; i < head_dim; ++i) {
        for (size_t j = i; j < head_dim; ++j) {
          moment[i * head_dim + j] /= count;
          moment[j * head_dim + i] = moment[i * head_dim + j];
        }
      }
    }
  }
  return std::move(samples_);
}

}  // namespace varve
