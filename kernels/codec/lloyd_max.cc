#include "kernels/codec/lloyd_max.h"

#include <algorithm>

#include "proto/base/check.h"

namespace varve {
namespace {

constexpr int kMaxRounds = 1000;

}  // namespace

std::vector<float> FitLevels(std::span<const float> values,
                             std::span<const float> weights,
                             size_t count) {
  VARVE_CHECK(count >= 1 && (weights.empty() || weights.size() == values.size()));
  std::vector<float> levels(count);
  if (values.empty()) {
    for (size_t i = 0; i < count; ++i) {
      levels[i] = (2.0F * static_cast<float>(i) + 1.0F) / static_cast<float>(count) - 1.0F;
    }
    return levels;
  }
  // Value and weight side by side: sorting indices of them takes three times as long.
  struct Weighted {
    float value;
    float weight;
  };
  std::vector<Weighted> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = {values[i], weights.empty() ? 1.0F : weights[i]};
  }
  std::sort(order.begin(), order.end(), [](const Weighted& a, const Weighted& b) {
    return a.value < b.value;
  });
  // Sums of weights and of weighted values up to each value, so that a round costs count * log n.
  std::vector<float> sorted(values.size());
  std::vector<double> mass(values.size() + 1, 0.0);
  std::vector<double> moment(values.size() + 1, 0.0);
  for (size_t i = 0; i < order.size(); ++i) {
    const double weight = order[i].weight;
    sorted[i] = order[i].value;
    mass[i + 1] = mass[i] + weight;
    moment[i + 1] = moment[i] + weight * sorted[i];
  }
  for (size_t i = 0; i < count; ++i) {
    levels[i] = sorted[(2 * i + 1) * sorted.size() / (2 * count)];
  }
  for (int round = 0; round < kMaxRounds; ++round) {
    std::vector<float> next = levels;
    size_t begin = 0;
    for (size_t i = 0; i < count; ++i) {
      size_t end = sorted.size();
      if (i + 1 < count) {
        const float border = (levels[i] + levels[i + 1]) / 2.0F;
        end = static_cast<size_t>(
            std::upper_bound(sorted.begin() + static_cast<ptrdiff_t>(begin), sorted.end(), border) -
            sorted.begin());
      }
      if (mass[end] > mass[begin]) {
        next[i] = static_cast<float>((moment[end] - moment[begin]) / (mass[end] - mass[begin]));
      }
      begin = end;
    }
    if (next == levels) {
      break;
    }
    levels = std::move(next);
  }
  std::sort(levels.begin(), levels.end());
  return levels;
}

size_t NearestLevel(std::span<const float> levels, float x) {
  auto above = std::lower_bound(levels.begin(), levels.end(), x);
  if (above == levels.begin()) {
    return 0;
  }
  if (above == levels.end() || x - above[-1] <= *above - x) {
    --above;
  }
  return static_cast<size_t>(above - levels.begin());
}

}  // namespace varve
