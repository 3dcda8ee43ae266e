#include "worker/sampled_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "proto/base/check.h"

#include <boost/math/distributions/fisher_f.hpp>

namespace varve {
namespace {

// The grid of quantiles. Both degrees of freedom are rounded down to it, which makes the quantile
// larger.
constexpr size_t kMaxHeadDim = 256;

constexpr std::array<double, 13> kDimensions = {1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128};
constexpr std::array<double, 15> kFreedom =
    {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 1024};

template <size_t kSize>
size_t RoundDown(const std::array<double, kSize>& grid, double value) {
  const auto above = std::upper_bound(grid.begin(), grid.end(), value);
  return above == grid.begin() ? 0 : static_cast<size_t>(above - grid.begin()) - 1;
}

// In as many partial sums as a vector has lanes, so that the compiler can use one.
float Dot(const float* a, const float* b, size_t count) {
  constexpr size_t kLanes = 16;
  float sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += a[i + lane] * b[i + lane];
    }
  }
  float sum = 0.0F;
  for (; i < count; ++i) {
    sum += a[i] * b[i];
  }
  for (const float lane : sums) {
    sum += lane;
  }
  return sum;
}

// |sum of y y^T| over its trace; |sum of y y^T|^2 = sum of (y_i . y_j)^2. y: [count, head_dim], of
// which so many are looked at that it costs less than reading their pages.
double RelativeSpread(const float* y, size_t count, size_t head_dim) {
  constexpr size_t kMostPages = 48;
  const size_t used = std::min(count, kMostPages);
  const auto page = [&](size_t i) { return y + i * count / used * head_dim; };
  double sum = 0.0;
  double trace = 0.0;
  for (size_t i = 0; i < used; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      const double product = Dot(page(i), page(j), head_dim);
      sum += (i == j ? 1.0 : 2.0) * product * product;
      trace += i == j ? product : 0.0;
    }
  }
  return trace > 0.0 ? std::sqrt(sum) / trace : 1.0;
}

// The moments around `o` of pages whose masses are shares[i] (already divided by probabilities).
void SetMoments(const SampledStates& sampled,
                std::span<const float> shares,
                const float* o,
                size_t head_dim,
                float* y,
                float* moments) {
  std::fill_n(moments, MomentFloats(head_dim), 0.0F);
  float* mixed = moments + kMomentScalars;
  double total = 0.0;   // of 1 - p
  double mass = 0.0;    // of (1 - p) shares
  double square = 0.0;  // of (1 - p) shares^2
  VARVE_CHECK(head_dim <= kMaxHeadDim);
  std::array<double, kMaxHeadDim> mean{};
  size_t count = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const float probability = sampled.probabilities[i];
    const float rest = 1.0F - probability;
    if (rest <= 0.0F || probability <= 0.0F) {
      continue;
    }
    ++count;
    moments[kMomentMissed] += rest * shares[i];
    total += rest;
    mass += static_cast<double>(rest) * shares[i];
    square += static_cast<double>(rest) * shares[i] * shares[i];
    for (size_t d = 0; shares[i] > 0.0F && d < head_dim; ++d) {
      mean[d] +=
          static_cast<double>(rest) * shares[i] * (sampled.o[i * sampled.o_stride + d] - o[d]);
    }
  }
  if (count == 0) {
    return;
  }
  if (count == 1) {
    moments[kMomentVariance] = std::numeric_limits<float>::infinity();
    return;
  }
  const double factor = static_cast<double>(count) / static_cast<double>(count - 1);
  size_t at = 0;
  double variance = 0.0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const float rest = 1.0F - sampled.probabilities[i];
    if (rest <= 0.0F || sampled.probabilities[i] <= 0.0F) {
      continue;
    }
    const auto root = static_cast<float>(std::sqrt(factor * rest));
    const auto centred = static_cast<float>(shares[i] - mass / total);
    float* row = y + at++ * head_dim;
    for (size_t d = 0; d < head_dim; ++d) {
      // The o of a page without mass is zero and says nothing.
      const float x =
          shares[i] > 0.0F ? shares[i] * (sampled.o[i * sampled.o_stride + d] - o[d]) : 0.0F;
      row[d] = root * (x - static_cast<float>(mean[d] / total));
      mixed[d] += root * centred * row[d];
    }
    variance += Dot(row, row, head_dim);
  }
  moments[kMomentVariance] = static_cast<float>(variance);
  moments[kMomentMass] = static_cast<float>(std::max(0.0, factor * (square - mass * mass / total)));
  moments[kMomentSpread] = static_cast<float>(variance * RelativeSpread(y, count, head_dim));
  moments[kMomentFreedom] = static_cast<float>(count - 1);
}

}  // namespace

void EstimateFromSample(const SampledStates& sampled,
                        size_t head_dim,
                        float* o,
                        float* lse,
                        float* moments,
                        std::vector<float>& scratch) {
  const size_t count = sampled.probabilities.size();
  scratch.resize(std::max(scratch.size(), count * (head_dim + 1)));
  const std::span<float> shares(scratch.data(), count);
  float* y = scratch.data() + count;
  float highest = *lse;
  for (size_t i = 0; i < count; ++i) {
    const float probability = sampled.probabilities[i];
    shares[i] = probability > 0.0F ? sampled.lse[i * sampled.lse_stride] - std::log(probability)
                                   : -std::numeric_limits<float>::infinity();
    highest = std::max(highest, shares[i]);
  }
  if (highest == -std::numeric_limits<float>::infinity()) {
    std::fill_n(moments, MomentFloats(head_dim), 0.0F);
    return;
  }
  const float before = std::exp(*lse - highest);
  float total = before;
  for (float& share : shares) {
    share = std::exp(share - highest);
    total += share;
  }
  for (size_t d = 0; d < head_dim; ++d) {
    o[d] = before > 0.0F ? o[d] * (before / total) : 0.0F;
  }
  for (size_t i = 0; i < count; ++i) {
    shares[i] /= total;
    for (size_t d = 0; shares[i] > 0.0F && d < head_dim; ++d) {
      o[d] += shares[i] * sampled.o[i * sampled.o_stride + d];
    }
  }
  *lse = highest + std::log(total);
  SetMoments(sampled, shares, o, head_dim, y, moments);
}

ErrorStatement::ErrorStatement(double delta) : delta_(delta) {
  for (const double dimensions : kDimensions) {
    for (const double freedom : kFreedom) {
      quantiles_.push_back(boost::math::quantile(
          boost::math::complement(boost::math::fisher_f(dimensions, freedom), delta)));
    }
  }
}

double ErrorStatement::Quantile(double dimensions, double freedom) const {
  return quantiles_[RoundDown(kDimensions, dimensions) * kFreedom.size() +
                    RoundDown(kFreedom, freedom)];
}

ErrorStatement::Row ErrorStatement::Of(std::span<const EstimatedState> states,
                                       const float* o,
                                       size_t head_dim) const {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  float highest = kNone;
  for (const EstimatedState& state : states) {
    highest = std::max(highest, state.lse);
  }
  Row row;
  if (highest == kNone) {
    return row;
  }
  double total = 0.0;
  for (const EstimatedState& state : states) {
    total += std::exp(static_cast<double>(state.lse) - highest);
  }
  double variance = 0.0;
  double spread = 0.0;
  double freedom = 0.0;
  for (const EstimatedState& state : states) {
    const float* moments = state.moments;
    const double share = std::exp(static_cast<double>(state.lse) - highest) / total;
    if (share == 0.0) {
      continue;
    }
    row.missed += static_cast<float>(share) * moments[kMomentMissed];
    // Moved from around the worker's o to around the merged one.
    double turn = 0.0;
    double distance = 0.0;
    double mixed = 0.0;
    for (size_t d = 0; d < head_dim; ++d) {
      const double step = static_cast<double>(o[d]) - state.o[d];
      const double moment = moments[kMomentScalars + d];
      turn += moment * step;
      distance += step * step;
      mixed += moment * moment;
    }
    const double mass = moments[kMomentMass];
    variance += share * share * (moments[kMomentVariance] - 2 * turn + mass * distance);
    spread += share * share *
              (moments[kMomentSpread] + 2 * std::sqrt(mixed * distance) + mass * distance);
    freedom += moments[kMomentFreedom];
  }
  if (!(variance > 0.0)) {
    return row;
  }
  const double length = std::sqrt(Dot(o, o, head_dim));
  const double dimensions = spread > 0.0 ? variance * variance / (spread * spread) : 1.0;
  const double error = std::sqrt(variance * Quantile(dimensions, freedom));
  // Relative to the true o, which may be shorter than the estimate by the error.
  row.error = error < length ? static_cast<float>(error / (length - error))
                             : std::numeric_limits<float>::infinity();
  return row;
}

}  // namespace varve
