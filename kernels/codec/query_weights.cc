#include "kernels/codec/query_weights.h"

#include <algorithm>

namespace varve {

std::vector<double> QueryWeights(const CalibrationSample& sample, size_t kv_head) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const double* moment = sample.q_moment.data() + kv_head * head_dim * head_dim;
  std::vector<double> weights(head_dim);
  double sum = 0.0;
  for (size_t i = 0; i < head_dim; ++i) {
    const size_t partner = sample.has_rope ? (i + head_dim / 2) % head_dim : i;
    weights[i] = (moment[i * head_dim + i] + moment[partner * head_dim + partner]) / 2.0;
    sum += weights[i];
  }
  const double floor = std::max(1e-4 * sum / static_cast<double>(head_dim), 1e-30);
  for (double& weight : weights) {
    weight = std::max(weight, floor);
  }
  return weights;
}

}  // namespace varve
