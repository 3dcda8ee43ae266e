#include "kernels/codec/klt_calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/codec/klt_encode.h"
#include "kernels/codec/lloyd_max.h"
#include "kernels/codec/query_metric.h"
#include "proto/base/check.h"

#include <Eigen/Dense>

namespace varve {
namespace {

// Directions whose keys vary less than this, relative to the most important one, are not kept.
constexpr double kLeastDeviation = 1e-6;
// Lloyd-Max distortion of a normal source of variance one, by bits (Max, 1960).
constexpr double kDistortion[kKltMaxBits + 1] =
    {1.0, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499, 0.000645};
// No channel of the values is taken to vary less than this share of the mean variance: it may once.
constexpr double kLeastVariance = 1e-4;
constexpr size_t kMaxFitted = 200'000;  // values that levels are fitted to

struct Moments {
  Eigen::VectorXd mean;
  Eigen::MatrixXd covariance;
};

Moments KeyMoments(const CalibrationSample& sample, int32_t kv_head) {
  const Eigen::Index head_dim = sample.head_dim;
  const Eigen::Index stride = head_dim * sample.num_kv_heads;
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                   0,
                   Eigen::OuterStride<>>
      keys(sample.k.data() + kv_head * head_dim,
           sample.num_tokens,
           head_dim,
           Eigen::OuterStride<>(stride));
  const Eigen::MatrixXd wide = keys.cast<double>();
  Moments moments{wide.colwise().mean(), {}};
  const Eigen::MatrixXd centred = wide.rowwise() - moments.mean.transpose();
  moments.covariance =
      centred.transpose() * centred / static_cast<double>(std::max<int64_t>(sample.num_tokens, 1));
  return moments;
}

// Bits of the groups, whose variances (of s y) are given: `total` for all together.
std::vector<size_t> ShareBits(const std::vector<double>& variances, size_t total) {
  std::vector<size_t> bits(variances.size(), 0);
  for (size_t spent = 0; spent < total; ++spent) {
    size_t best = variances.size();
    double most = -1.0;
    for (size_t g = 0; g < variances.size(); ++g) {
      if (bits[g] == kKltMaxBits) {
        continue;
      }
      const double gain = variances[g] * (kDistortion[bits[g]] - kDistortion[bits[g] + 1]);
      if (gain > most) {
        most = gain;
        best = g;
      }
    }
    VARVE_CHECK(best < variances.size());
    ++bits[best];
  }
  return bits;
}

void CalibrateKeys(const CalibrationSample& sample,
                   int32_t kv_head,
                   size_t row_bytes,
                   const KltTables<float>& tables) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const size_t dims = KltDims(head_dim);
  const Moments keys = KeyMoments(sample, kv_head);
  const Eigen::MatrixXd metric = QueryMetric(sample, kv_head);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(metric * keys.covariance * metric);
  const Eigen::MatrixXd inverse_metric = metric.inverse();
  // Ascending in the solver.
  std::vector<double> deviations(dims, 0.0);
  for (size_t dim = 0; dim < head_dim; ++dim) {
    deviations[dim] = std::sqrt(
        std::max(0.0, solver.eigenvalues()(static_cast<Eigen::Index>(head_dim - 1 - dim))));
  }
  const double least = kLeastDeviation * deviations[0];
  std::vector<double> variances(dims / kKltGroup, 0.0);
  for (size_t i = 0; i < head_dim; ++i) {
    tables.mean[i] = static_cast<float>(keys.mean(static_cast<Eigen::Index>(i)));
  }
  for (size_t dim = 0; dim < head_dim; ++dim) {
    const double deviation = deviations[dim];
    if (!(deviation > least)) {
      continue;
    }
    const Eigen::VectorXd direction =
        solver.eigenvectors().col(static_cast<Eigen::Index>(head_dim - 1 - dim));
    const Eigen::VectorXd to_y = metric * direction / deviation;
    const Eigen::VectorXd from_y = inverse_metric * direction * deviation;
    tables.keys.weights[dim] = static_cast<float>(deviation);
    variances[dim / kKltGroup] += deviation * deviation;
    for (size_t i = 0; i < head_dim; ++i) {
      tables.forward[i * dims + dim] = static_cast<float>(to_y(static_cast<Eigen::Index>(i)));
      tables.inverse[dim * head_dim + i] = static_cast<float>(from_y(static_cast<Eigen::Index>(i)));
    }
  }
  const std::vector<size_t> shares = ShareBits(variances, row_bytes);
  std::copy(shares.begin(), shares.end(), tables.keys.group_bits);
}

void CalibrateValues(const CalibrationSample& sample,
                     int32_t kv_head,
                     size_t row_bytes,
                     const KltTables<float>& tables) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const auto num_tokens = static_cast<size_t>(sample.num_tokens);
  const size_t stride = head_dim * static_cast<size_t>(sample.num_kv_heads);
  const float* rows = sample.v.data() + static_cast<size_t>(kv_head) * head_dim;
  std::vector<double> variances(head_dim, 0.0);
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = 0; i < head_dim; ++i) {
      const double x = rows[t * stride + i];
      variances[i] += x * x / static_cast<double>(num_tokens);
    }
  }
  const double mean =
      std::accumulate(variances.begin(), variances.end(), 0.0) / static_cast<double>(head_dim);
  for (size_t i = 0; i < head_dim; ++i) {
    const double variance = mean > 0.0 ? variances[i] + kLeastVariance * mean : 1.0;
    tables.evenness[i] = static_cast<float>(std::sqrt(std::sqrt(variance)));
  }
  const size_t num_groups = KltDims(head_dim) / kKltGroup;
  for (size_t group = 0; group < num_groups; ++group) {
    tables.values.group_bits[group] =
        static_cast<float>(row_bytes / num_groups + (group < row_bytes % num_groups ? 1 : 0));
  }
  std::fill_n(tables.values.weights, head_dim, 1.0F);
}

// Normalised y of all heads' dimensions that have bits, of keys or of values.
std::vector<float> PooledValues(const CalibrationSample& sample,
                                const std::vector<float>& tables,
                                bool keys) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const auto num_tokens = static_cast<size_t>(sample.num_tokens);
  const size_t dims = KltDims(head_dim);
  const size_t per_token = static_cast<size_t>(sample.num_kv_heads) * head_dim;
  const size_t step = std::max<size_t>(1, num_tokens * per_token / kMaxFitted);
  const size_t count = (num_tokens + step - 1) / step;
  std::vector<float> x(count * head_dim);
  std::vector<float> y(count * dims);
  std::vector<float> norms(count);
  std::vector<float> pooled;
  for (size_t head = 0; head < static_cast<size_t>(sample.num_kv_heads); ++head) {
    const KltTables<const float> own = KltTablesOf(tables.data(), head, head_dim);
    const KltSide<const float>& side = keys ? own.keys : own.values;
    const float* source = (keys ? sample.k : sample.v).data() + head * head_dim;
    for (size_t t = 0; t < count; ++t) {
      std::copy_n(source + t * step * per_token, head_dim, x.data() + t * head_dim);
    }
    (keys ? TransformKltKeys : TransformKltValues)(own, count, head_dim, x.data(), y.data());
    KltNorms(side, count, dims, y.data(), norms.data());
    for (size_t t = 0; t < count; ++t) {
      for (size_t dim = 0; dim < head_dim && norms[t] > 0.0F; ++dim) {
        if (side.group_bits[dim / kKltGroup] != 0.0F && side.weights[dim] != 0.0F) {
          pooled.push_back(y[t * dims + dim] / norms[t]);
        }
      }
    }
  }
  return pooled;
}

}  // namespace

CodecTables CalibrateKlt(const CalibrationSample& sample, KltRate rate) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  CodecTables tables;
  tables.values.resize(KltTableFloats(static_cast<size_t>(sample.num_kv_heads), head_dim));
  for (int32_t head = 0; head < sample.num_kv_heads; ++head) {
    const KltTables<float> own =
        KltTablesOf(tables.values.data(), static_cast<size_t>(head), head_dim);
    CalibrateKeys(sample, head, KltRowBytes(rate.keys, head_dim), own);
    CalibrateValues(sample, head, KltRowBytes(rate.values, head_dim), own);
  }
  for (const bool keys : {true, false}) {
    const std::vector<float> pooled = PooledValues(sample, tables.values, keys);
    for (size_t width = 1; width <= kKltMaxBits; ++width) {
      const std::vector<float> levels = FitLevels(pooled, {}, size_t{1} << width);
      std::copy(levels.begin(),
                levels.end(),
                tables.values.data() + (keys ? 0 : kKltLevels) + KltLevelsAt(width));
    }
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace varve
