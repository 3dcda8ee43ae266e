#include "kernels/codec/nuq_calibration.h"

#include <algorithm>
#include <cmath>

#include "kernels/codec/lloyd_max.h"
#include "kernels/codec/nuq_block.h"
#include "kernels/codec/nuq_encode.h"
#include "proto/base/check.h"

namespace varve {
namespace {

constexpr double kTail = 0.005;         // of a channel's values, on either side
constexpr float kLeastScale = 1e-6F;    // of a channel that never changes
constexpr size_t kMaxFitted = 400'000;  // values that levels are fitted to

// Normalised values and what an error in each counts.
struct Fitted {
  std::vector<float> values;
  std::vector<float> weights;

  void Add(float value, float weight) {
    values.push_back(value);
    weights.push_back(weight);
  }
};

struct ChannelRange {
  float scale;
  float offset;
};

ChannelRange RangeOfChannel(std::vector<float> values, double tail) {
  std::sort(values.begin(), values.end());
  const auto cut = static_cast<size_t>(tail * static_cast<double>(values.size()));
  const float low = values[cut];
  const float high = values[values.size() - 1 - cut];
  return {std::max((high - low) / 2.0F, kLeastScale), (high + low) / 2.0F};
}

// Mean and deviation of what is coded, made those of the values (Q-Norm).
void Normalise(const Fitted& fitted, std::vector<float>* levels) {
  double mean[2] = {};
  double square[2] = {};
  for (const float value : fitted.values) {
    const float nearest = (*levels)[NearestLevel(*levels, value)];
    const double pair[2] = {value, nearest};
    for (int i = 0; i < 2; ++i) {
      mean[i] += pair[i];
      square[i] += pair[i] * pair[i];
    }
  }
  const auto count = static_cast<double>(fitted.values.size());
  double deviation[2];
  for (int i = 0; i < 2; ++i) {
    mean[i] /= count;
    deviation[i] = std::sqrt(std::max(0.0, square[i] / count - mean[i] * mean[i]));
  }
  if (!(deviation[1] > 0.0)) {
    return;
  }
  const double stretch = deviation[0] / deviation[1];
  for (float& level : *levels) {
    level = static_cast<float>(level * stretch + mean[0] - mean[1] * stretch);
  }
}

std::vector<float> Levels(const Fitted& fitted, size_t bits) {
  std::vector<float> levels = FitLevels(fitted.values, fitted.weights, size_t{1} << bits);
  if (bits == 2 && !fitted.values.empty()) {
    Normalise(fitted, &levels);
  }
  int8_t steps[kMaxNuqLevels];
  const float step = NuqLevelSteps(levels.data(), bits, steps);
  std::transform(steps, steps + levels.size(), levels.begin(), [&](int8_t level) {
    return static_cast<float>(level) * step;
  });
  return levels;
}

// What an error of channel `dim` of a head's keys counts where no gradients are known: the mean
// square of what queries multiply it with.
double QueryWeight(const CalibrationSample& sample, size_t head, size_t dim) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const double* moment = sample.q_moment.data() + head * head_dim * head_dim;
  const double own = moment[dim * head_dim + dim];
  if (!sample.has_rope) {
    return own;
  }
  const size_t partner = (dim + head_dim / 2) % head_dim;
  return (own + moment[partner * head_dim + partner]) / 2.0;
}

void CalibrateKeys(const CalibrationSample& sample, size_t bits, bool sparse, float* tables) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const auto num_tokens = static_cast<size_t>(sample.num_tokens);
  const size_t width = static_cast<size_t>(sample.num_kv_heads) * head_dim;
  const size_t step = std::max<size_t>(1, num_tokens * width / kMaxFitted);
  Fitted fitted;
  std::vector<float> channel(num_tokens);
  for (size_t column = 0; column < width; ++column) {
    for (size_t t = 0; t < num_tokens; ++t) {
      channel[t] = sample.k[t * width + column];
    }
    const ChannelRange range = RangeOfChannel(channel, sparse ? kTail : 0.0);
    float* head = tables + (size_t{2} << bits) + 2 * (column / head_dim) * head_dim;
    head[column % head_dim] = range.scale;
    head[head_dim + column % head_dim] = range.offset;
    const double square = static_cast<double>(range.scale) * range.scale;
    const double of_queries = QueryWeight(sample, column / head_dim, column % head_dim);
    for (size_t t = column % step; t < num_tokens; t += step) {
      const float value = (channel[t] - range.offset) / range.scale;
      if (std::fabs(value) <= 1.0F) {
        const double sensitivity =
            sample.k_sensitivity.empty() ? of_queries : sample.k_sensitivity[t * width + column];
        fitted.Add(value, static_cast<float>(square * sensitivity));
      }
    }
  }
  const std::vector<float> levels = Levels(fitted, bits);
  std::copy(levels.begin(), levels.end(), tables);
}

void CalibrateValues(const CalibrationSample& sample, size_t bits, bool sparse, float* tables) {
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const size_t num_rows =
      static_cast<size_t>(sample.num_tokens) * static_cast<size_t>(sample.num_kv_heads);
  const size_t step = std::max<size_t>(1, num_rows * head_dim / kMaxFitted);
  Fitted fitted;
  for (size_t r = 0; r < num_rows; r += step) {
    const std::span<const float> v(sample.v.data() + r * head_dim, head_dim);
    const NuqRow row = SplitNuqRow(v, NuqOutliers(sparse, head_dim));
    if (!(row.scale > 0.0F)) {
      continue;
    }
    for (size_t i = 0; i < head_dim; ++i) {
      const float value = (v[i] - row.offset) / row.scale;
      if (std::fabs(value) <= 1.0F) {
        const float sensitivity =
            sample.v_sensitivity.empty() ? 1.0F : sample.v_sensitivity[r * head_dim + i];
        fitted.Add(value, row.scale * row.scale * sensitivity);
      }
    }
  }
  const std::vector<float> levels = Levels(fitted, bits);
  std::copy(levels.begin(), levels.end(), tables + (size_t{1} << bits));
}

}  // namespace

CodecTables CalibrateNuq(const CalibrationSample& sample, size_t bits, bool sparse) {
  VARVE_CHECK(sample.num_tokens > 0);
  CodecTables tables;
  tables.values.resize(NuqTableFloats(
      bits, static_cast<size_t>(sample.num_kv_heads), static_cast<size_t>(sample.head_dim)));
  CalibrateKeys(sample, bits, sparse, tables.values.data());
  CalibrateValues(sample, bits, sparse, tables.values.data());
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace varve
