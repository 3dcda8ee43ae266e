#include "kernels/codec/pca_calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/codec/bit_allocation.h"
#include "kernels/codec/lloyd_max.h"
#include "kernels/codec/query_metric.h"

#include <Eigen/Dense>

namespace varve {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Components that vary less than this, relative to the most important one, are not kept; nor are
// any of a sample that hardly varies.
constexpr double kLeastDeviation = 1e-6;
constexpr double kLeastLargest = 1e-12;
constexpr int64_t kMaxMeasured = 2048;  // tokens that distortions are measured on
constexpr size_t kMaxFitted = 100'000;  // values that levels are fitted to
constexpr size_t kNumWidths = kPcaMaxBits + 1;
// Lloyd-Max distortion of a normal source of variance one, by bits (Max, 1960): the first guess.
constexpr std::array<double, kNumWidths> kNormalDistortion =
    {1.0, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499, 0.000645};

// One side while its tables are made.
struct Side {
  size_t num_groups = 0;
  Eigen::VectorXd mean;        // [W]
  Eigen::VectorXd deviations;  // [components]
  Eigen::MatrixXd basis;       // [W, components]
  RowMajor y;                  // [measured tokens, components]
  double weight = 0.0;         // of its distortion in the allocation
  std::vector<size_t> bits;    // [num_groups]
  std::vector<float> levels;   // [kPcaLevels]

  Eigen::Index components() const { return deviations.size(); }
  double Energy(Eigen::Index component) const {
    return weight * deviations(component) * deviations(component);
  }
};

// The block of each kv head on the diagonal, which is the square root of M (keys), or ones.
Eigen::MatrixXd MetricOf(const CalibrationSample& sample, bool keys) {
  const Eigen::Index head_dim = sample.head_dim;
  const Eigen::Index width = sample.num_kv_heads * head_dim;
  Eigen::MatrixXd metric = Eigen::MatrixXd::Identity(width, width);
  for (int32_t head = 0; keys && head < sample.num_kv_heads; ++head) {
    metric.block(head * head_dim, head * head_dim, head_dim, head_dim) = QueryMetric(sample, head);
  }
  return metric;
}

Side Transform(const CalibrationSample& sample, bool keys, const Eigen::MatrixXd& metric) {
  const Eigen::Index width = metric.rows();
  const Eigen::Map<const RowMajor> rows(
      (keys ? sample.k : sample.v).data(), sample.num_tokens, width);
  Side side;
  const auto room = keys ? PcaKeyComponents(static_cast<size_t>(width))
                         : PcaValueComponents(static_cast<size_t>(width));
  side.num_groups = room / kPcaGroup;
  const Eigen::MatrixXd wide = rows.cast<double>();
  side.mean = wide.colwise().mean();
  const Eigen::MatrixXd centred = wide.rowwise() - side.mean.transpose();
  Eigen::MatrixXd covariance = Eigen::MatrixXd::Zero(width, width);
  covariance.selfadjointView<Eigen::Lower>().rankUpdate(
      centred.transpose(), 1.0 / static_cast<double>(std::max<int64_t>(sample.num_tokens, 1)));
  covariance = covariance.selfadjointView<Eigen::Lower>();
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(metric * covariance * metric);
  const Eigen::MatrixXd inverse = keys ? Eigen::MatrixXd(metric.inverse()) : metric;
  side.deviations = Eigen::VectorXd::Zero(static_cast<Eigen::Index>(room));
  side.basis = Eigen::MatrixXd::Zero(width, side.components());
  Eigen::MatrixXd to_y = side.basis;
  // Ascending in the solver.
  const double largest = std::sqrt(std::max(0.0, solver.eigenvalues()(width - 1)));
  for (Eigen::Index c = 0; c < std::min(width, side.components()); ++c) {
    const double deviation = std::sqrt(std::max(0.0, solver.eigenvalues()(width - 1 - c)));
    if (largest > kLeastLargest && deviation > kLeastDeviation * largest) {
      const Eigen::VectorXd direction = solver.eigenvectors().col(width - 1 - c);
      side.deviations(c) = deviation;
      side.basis.col(c) = inverse * direction * deviation;
      to_y.col(c) = metric * direction / deviation;
    }
  }
  const double total = solver.eigenvalues().sum();
  side.weight = keys ? kPcaKeyWeight / sample.num_kv_heads : 1.0 / std::max(total, kLeastLargest);
  const int64_t step = (sample.num_tokens + kMaxMeasured - 1) / kMaxMeasured;
  const int64_t measured = step == 0 ? 0 : (sample.num_tokens + step - 1) / step;
  Eigen::MatrixXd taken(measured, width);
  for (int64_t t = 0; t < measured; ++t) {
    taken.row(t) = centred.row(t * step);
  }
  side.y = (taken * to_y).cast<float>();
  return side;
}

// Root mean square of the components that have bits, of each measured token.
std::vector<float> NormsOf(const Side& side) {
  std::vector<float> norms(static_cast<size_t>(side.y.rows()), 0.0F);
  for (Eigen::Index t = 0; t < side.y.rows(); ++t) {
    double energy = 0.0;
    size_t count = 0;
    for (Eigen::Index c = 0; c < side.components(); ++c) {
      if (side.bits[static_cast<size_t>(c) / kPcaGroup] != 0) {
        energy += static_cast<double>(side.y(t, c)) * side.y(t, c);
        ++count;
      }
    }
    norms[static_cast<size_t>(t)] =
        count == 0 ? 0.0F : static_cast<float>(std::sqrt(energy / static_cast<double>(count)));
  }
  return norms;
}

void FitSide(Side* side) {
  const std::vector<float> norms = NormsOf(*side);
  const size_t values = static_cast<size_t>(side->y.size());
  const auto step = static_cast<Eigen::Index>(1 + values / kMaxFitted);
  std::vector<float> pooled;
  for (Eigen::Index t = 0; t < side->y.rows(); t += step) {
    const float norm = norms[static_cast<size_t>(t)];
    for (Eigen::Index c = 0; c < side->components() && norm > 0.0F; ++c) {
      if (side->bits[static_cast<size_t>(c) / kPcaGroup] != 0) {
        pooled.push_back(side->y(t, c) / norm);
      }
    }
  }
  std::sort(pooled.begin(), pooled.end());  // once, and not for each width
  side->levels.resize(kPcaLevels);
  for (size_t width = 1; width <= kPcaMaxBits; ++width) {
    const std::vector<float> levels = FitLevels(pooled, {}, size_t{1} << width);
    std::copy(levels.begin(),
              levels.end(),
              side->levels.begin() + static_cast<ptrdiff_t>(PcaLevelsAt(width)));
  }
}

// What each group loses with each width, [num_groups, kNumWidths], before any tokens were looked
// at: as of a normal source.
void AppendGuess(const Side& side, std::vector<double>* distortion) {
  for (size_t group = 0; group < side.num_groups; ++group) {
    double energy = 0.0;
    for (size_t lane = 0; lane < kPcaGroup; ++lane) {
      energy += side.Energy(static_cast<Eigen::Index>(group * kPcaGroup + lane));
    }
    for (const double share : kNormalDistortion) {
      distortion->push_back(energy * share);
    }
  }
}

// The same, measured with the side's levels.
void AppendMeasured(const Side& side, std::vector<double>* distortion) {
  const std::vector<float> norms = NormsOf(side);
  const size_t first = distortion->size();
  distortion->resize(first + side.num_groups * kNumWidths, 0.0);
  for (Eigen::Index t = 0; t < side.y.rows(); ++t) {
    const float norm = norms[static_cast<size_t>(t)];
    for (Eigen::Index c = 0; c < side.components(); ++c) {
      double* own = distortion->data() + first + static_cast<size_t>(c) / kPcaGroup * kNumWidths;
      const float y = side.y(t, c);
      const double energy = side.Energy(c) / static_cast<double>(side.y.rows());
      own[0] += energy * y * y;
      for (size_t width = 1; width < kNumWidths; ++width) {
        const float* levels = side.levels.data() + PcaLevelsAt(width);
        const size_t code = norm > 0.0F ? NearestLevel({levels, size_t{1} << width}, y / norm) : 0;
        const double error = static_cast<double>(y) - static_cast<double>(norm) * levels[code];
        own[width] += energy * error * error;
      }
    }
  }
}

void Share(const std::vector<double>& distortion, size_t bytes, Side* keys, Side* values) {
  const std::vector<size_t> shares = AllocateBits(distortion, kNumWidths, bytes);
  const auto border = shares.begin() + static_cast<ptrdiff_t>(keys->num_groups);
  keys->bits.assign(shares.begin(), border);
  values->bits.assign(border, shares.end());
}

void Store(const Side& side, std::vector<float>* tables) {
  tables->insert(tables->end(), side.levels.begin(), side.levels.end());
  tables->insert(tables->end(), side.bits.begin(), side.bits.end());
  tables->insert(tables->end(), side.mean.begin(), side.mean.end());
  tables->insert(tables->end(), side.deviations.begin(), side.deviations.end());
  const RowMajor rows = side.basis.transpose().cast<float>();
  tables->insert(tables->end(), rows.data(), rows.data() + rows.size());
}

}  // namespace

CodecTables CalibratePca(const CalibrationSample& sample, PcaRate rate) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const auto num_kv_heads = static_cast<size_t>(sample.num_kv_heads);
  const Eigen::MatrixXd metric = MetricOf(sample, /*keys=*/true);
  Side keys = Transform(sample, /*keys=*/true, metric);
  Side values = Transform(sample, /*keys=*/false, MetricOf(sample, /*keys=*/false));
  const size_t bytes = PcaRowBytes(rate, num_kv_heads * head_dim) - kPcaScales;
  std::vector<double> distortion;
  AppendGuess(keys, &distortion);
  AppendGuess(values, &distortion);
  Share(distortion, bytes, &keys, &values);
  FitSide(&keys);
  FitSide(&values);
  distortion.clear();
  AppendMeasured(keys, &distortion);
  AppendMeasured(values, &distortion);
  Share(distortion, bytes, &keys, &values);
  FitSide(&keys);
  FitSide(&values);
  CodecTables tables;
  tables.values.reserve(PcaTableFloats(num_kv_heads, head_dim));
  Store(keys, &tables.values);
  Store(values, &tables.values);
  for (size_t head = 0; head < num_kv_heads; ++head) {
    const auto at = static_cast<Eigen::Index>(head * head_dim);
    const Eigen::MatrixXd block = metric.block(at, at, sample.head_dim, sample.head_dim);
    const RowMajor squared = (block * block).cast<float>();
    tables.values.insert(tables.values.end(), squared.data(), squared.data() + squared.size());
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace varve
