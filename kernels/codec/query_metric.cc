#include "kernels/codec/query_metric.h"

#include <algorithm>

#include <Eigen/Dense>

namespace varve {

Eigen::MatrixXd QueryMetric(const CalibrationSample& sample, int32_t kv_head) {
  const Eigen::Index n = sample.head_dim;
  const Eigen::Map<const Eigen::MatrixXd> moment(sample.q_moment.data() + kv_head * n * n, n, n);
  Eigen::MatrixXd metric = (moment + moment.transpose()) / 2.0;
  if (sample.has_rope) {
    Eigen::VectorXd pair = metric.diagonal();
    for (Eigen::Index i = 0; i < n / 2; ++i) {
      pair(i) = pair(i + n / 2) = (pair(i) + pair(i + n / 2)) / 2.0;
    }
    metric = pair.asDiagonal();
  }
  // No direction is without any weight: queries unlike the sample's will come.
  const double floor = 1e-4 * std::max(metric.trace() / static_cast<double>(n), 1e-30);
  metric.diagonal().array() += floor;
  return Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(metric).operatorSqrt();
}

}  // namespace varve
