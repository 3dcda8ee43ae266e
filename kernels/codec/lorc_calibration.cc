#include "kernels/codec/lorc_calibration.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/codec/lorc_block.h"
#include "kernels/codec/query_metric.h"
#include "proto/base/check.h"

#include <Eigen/Dense>

namespace varve {
namespace {

// Directions that vary less than this, relative to the largest, are not kept at any rank.
constexpr double kLeastDeviation = 1e-6;

// Principal directions of one side of one kv head, the largest first.
struct Directions {
  Eigen::VectorXd mean;
  Eigen::MatrixXd metric;
  Eigen::MatrixXd vectors;   // columns
  Eigen::VectorXd energies;  // s^2
};

// x: the sample's keys or values.
Directions DirectionsOf(const CalibrationSample& sample,
                        const std::vector<float>& x,
                        size_t kv_head,
                        const Eigen::MatrixXd& metric) {
  const Eigen::Index n = sample.head_dim;
  const Eigen::Index stride = n * sample.num_kv_heads;
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                   0,
                   Eigen::OuterStride<>>
      rows(x.data() + static_cast<Eigen::Index>(kv_head) * n,
           sample.num_tokens,
           n,
           Eigen::OuterStride<>(stride));
  const Eigen::MatrixXd wide = rows.cast<double>();
  Directions found{wide.colwise().mean(), metric, {}, {}};
  const Eigen::MatrixXd centred = wide.rowwise() - found.mean.transpose();
  const Eigen::MatrixXd covariance =
      centred.transpose() * centred / static_cast<double>(sample.num_tokens);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(metric * covariance * metric);
  found.vectors = solver.eigenvectors().rowwise().reverse();
  found.energies = solver.eigenvalues().reverse().cwiseMax(0.0);
  return found;
}

size_t RankOf(const std::vector<Directions>& heads, size_t head_dim) {
  double total = 0.0;
  for (const Directions& head : heads) {
    total += head.energies.sum();
  }
  size_t rank = LorcLeastRank(head_dim);
  for (; rank < head_dim; rank = std::min(head_dim, rank + kLorcRankStep)) {
    double retained = 0.0;
    for (const Directions& head : heads) {
      retained += head.energies.head(static_cast<Eigen::Index>(rank)).sum();
    }
    if (retained >= kLorcShare * total) {
      break;
    }
  }
  return rank;
}

void Store(const Directions& found, size_t rank, float* tables) {
  const auto head_dim = static_cast<size_t>(found.mean.size());
  float* mean = tables;
  float* forward = mean + head_dim;
  float* inverse = forward + head_dim * head_dim;
  const Eigen::MatrixXd inverse_metric = found.metric.inverse();
  const double least = kLeastDeviation * std::sqrt(found.energies(0));
  for (size_t i = 0; i < head_dim; ++i) {
    mean[i] = static_cast<float>(found.mean(static_cast<Eigen::Index>(i)));
  }
  for (size_t r = 0; r < rank; ++r) {
    const double deviation = std::sqrt(found.energies(static_cast<Eigen::Index>(r)));
    if (!(deviation > least)) {
      continue;
    }
    const Eigen::VectorXd direction = found.vectors.col(static_cast<Eigen::Index>(r));
    const Eigen::VectorXd to_y = found.metric * direction / deviation;
    const Eigen::VectorXd from_y = inverse_metric * direction * deviation;
    for (size_t i = 0; i < head_dim; ++i) {
      forward[i * head_dim + r] = static_cast<float>(to_y(static_cast<Eigen::Index>(i)));
      inverse[r * head_dim + i] = static_cast<float>(from_y(static_cast<Eigen::Index>(i)));
    }
  }
}

}  // namespace

CodecTables CalibrateLorc(const CalibrationSample& sample) {
  VARVE_CHECK(sample.num_tokens > 0);
  const auto heads = static_cast<size_t>(sample.num_kv_heads);
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  CodecTables tables;
  tables.values.resize(LorcTableFloats(heads, head_dim));
  for (const bool is_key : {true, false}) {
    std::vector<Directions> found;
    for (size_t head = 0; head < heads; ++head) {
      found.push_back(
          is_key ? DirectionsOf(
                       sample, sample.k, head, QueryMetric(sample, static_cast<int32_t>(head)))
                 : DirectionsOf(sample,
                                sample.v,
                                head,
                                Eigen::MatrixXd::Identity(sample.head_dim, sample.head_dim)));
    }
    const size_t rank = RankOf(found, head_dim);
    tables.values[is_key ? 0 : 1] = static_cast<float>(rank);
    for (size_t head = 0; head < heads; ++head) {
      const size_t side = 2 * head + (is_key ? 0 : 1);
      Store(found[head], rank, tables.values.data() + 2 + side * LorcSideFloats(head_dim));
    }
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace varve
