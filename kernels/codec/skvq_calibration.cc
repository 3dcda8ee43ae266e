#include "kernels/codec/skvq_calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/codec/query_weights.h"
#include "kernels/codec/skvq_block.h"
#include "kernels/codec/skvq_groups.h"
#include "proto/base/check.h"

namespace varve {
namespace {

constexpr double kTail = 0.02;        // of a channel's values, on either side, beyond its tails
constexpr size_t kMaxMeasured = 512;  // tokens that an alpha is tried on
constexpr size_t kClustersPerGroup = 4;
constexpr int kMaxRounds = 50;
constexpr float kLeastAlpha = 0.3F;
constexpr float kAlphaStep = 0.02F;
constexpr size_t kNumAlphas = 36;  // up to 1

struct Channel {
  float low = 0.0F;  // tails, from the mean
  float high = 0.0F;

  float width() const { return high - low; }
  float DistanceTo(const Channel& other) const {
    const float a = low - other.low;
    const float b = high - other.high;
    return a * a + b * b;
  }
};

// Of one side of one kv head. x: the sample's keys or values.
class Side {
 public:
  Side(const CalibrationSample& sample,
       const std::vector<float>& x,
       size_t kv_head,
       std::vector<double> weights)
      : head_dim_(static_cast<size_t>(sample.head_dim)),
        num_tokens_(static_cast<size_t>(sample.num_tokens)),
        stride_(head_dim_ * static_cast<size_t>(sample.num_kv_heads)),
        x_(x.data() + kv_head * head_dim_),
        weights_(std::move(weights)) {}

  void Calibrate(size_t bits, float* tables) const;

 private:
  float At(size_t token, size_t i) const { return x_[token * stride_ + i]; }
  float Mean(size_t i) const;
  Channel Tails(size_t i, float mean) const;
  float BestAlpha(size_t bits,
                  const std::vector<float>& y,
                  const std::vector<double>& weights) const;

  size_t head_dim_;
  size_t num_tokens_;
  size_t stride_;
  const float* x_;
  std::vector<double> weights_;  // [head_dim]
};

float Side::Mean(size_t i) const {
  double sum = 0.0;
  for (size_t t = 0; t < num_tokens_; ++t) {
    sum += At(t, i);
  }
  return static_cast<float>(sum / static_cast<double>(num_tokens_));
}

Channel Side::Tails(size_t i, float mean) const {
  std::vector<float> values(num_tokens_);
  for (size_t t = 0; t < num_tokens_; ++t) {
    values[t] = At(t, i) - mean;
  }
  std::sort(values.begin(), values.end());
  const auto cut = static_cast<size_t>(kTail * static_cast<double>(num_tokens_));
  return {values[cut], values[num_tokens_ - 1 - cut]};
}

size_t NearestCluster(const std::vector<Channel>& centroids, const Channel& channel) {
  size_t nearest = 0;
  for (size_t c = 1; c < centroids.size(); ++c) {
    if (channel.DistanceTo(centroids[c]) < channel.DistanceTo(centroids[nearest])) {
      nearest = c;
    }
  }
  return nearest;
}

// k-means; clusters come back by width, narrow ones first.
std::vector<Channel> Clusters(const std::vector<Channel>& channels, size_t count) {
  std::vector<Channel> centroids = channels;
  const auto by_width = [](const Channel& a, const Channel& b) { return a.width() < b.width(); };
  std::stable_sort(centroids.begin(), centroids.end(), by_width);
  for (size_t c = 0; c < count; ++c) {
    centroids[c] = centroids[(2 * c + 1) * channels.size() / (2 * count)];
  }
  centroids.resize(count);
  for (int round = 0; round < kMaxRounds; ++round) {
    std::vector<Channel> sums(count);
    std::vector<float> sizes(count, 0.0F);
    for (const Channel& channel : channels) {
      const size_t c = NearestCluster(centroids, channel);
      sums[c] = {sums[c].low + channel.low, sums[c].high + channel.high};
      sizes[c] += 1.0F;
    }
    float moved = 0.0F;
    for (size_t c = 0; c < count; ++c) {
      if (sizes[c] > 0.0F) {
        const Channel mean{sums[c].low / sizes[c], sums[c].high / sizes[c]};
        moved += mean.DistanceTo(centroids[c]);
        centroids[c] = mean;
      }
    }
    if (moved == 0.0F) {
      break;
    }
  }
  std::stable_sort(centroids.begin(), centroids.end(), by_width);
  return centroids;
}

// The channels in the order in which they are coded.
std::vector<size_t> Order(const std::vector<Channel>& channels) {
  const size_t count = std::min(channels.size(), kClustersPerGroup * SkvqGroups(channels.size()));
  const std::vector<Channel> centroids = Clusters(channels, count);
  std::vector<size_t> cluster(channels.size());
  for (size_t i = 0; i < channels.size(); ++i) {
    cluster[i] = NearestCluster(centroids, channels[i]);
  }
  std::vector<size_t> order(channels.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return cluster[a] != cluster[b] ? cluster[a] < cluster[b]
                                    : channels[a].width() < channels[b].width();
  });
  return order;
}

// y: [tokens, weights.size()], centred.
float Side::BestAlpha(size_t bits,
                      const std::vector<float>& y,
                      const std::vector<double>& weights) const {
  const size_t width = weights.size();
  const size_t num_tokens = y.size() / width;
  float best_alpha = 1.0F;
  double least = INFINITY;
  for (size_t step = 0; step < kNumAlphas; ++step) {
    const float alpha = std::min(1.0F, kLeastAlpha + kAlphaStep * static_cast<float>(step));
    const SkvqCodedGroup coded = CodeSkvqGroup(bits, alpha, y.data(), num_tokens, width, width);
    double error = 0.0;
    for (size_t t = 0; t < num_tokens; ++t) {
      const float scale = Fp8ToFloat(coded.scales[t]) * F16ToFloat(coded.scale_unit);
      const float offset = Fp8ToFloat(coded.offsets[t]) * F16ToFloat(coded.offset_unit);
      for (size_t i = 0; i < width; ++i) {
        const size_t at = t * width + i;
        const double off = SkvqDecode(coded.codes[at], scale, offset, 0.0F) - y[at];
        error += weights[i] * off * off;
      }
    }
    if (error < least) {
      least = error;
      best_alpha = alpha;
    }
  }
  return best_alpha;
}

void Side::Calibrate(size_t bits, float* tables) const {
  float* place = tables;
  float* centre = place + head_dim_;
  float* alphas = centre + head_dim_;
  std::vector<Channel> channels(head_dim_);
  for (size_t i = 0; i < head_dim_; ++i) {
    centre[i] = Mean(i);
    channels[i] = Tails(i, centre[i]);
  }
  const std::vector<size_t> order = Order(channels);
  for (size_t j = 0; j < head_dim_; ++j) {
    place[order[j]] = static_cast<float>(j);
  }
  const size_t step = std::max<size_t>(1, num_tokens_ / kMaxMeasured);
  for (size_t begin = 0, group = 0; begin < head_dim_; begin += SkvqGroup(head_dim_), ++group) {
    const size_t end = std::min(head_dim_, begin + SkvqGroup(head_dim_));
    std::vector<double> weights;
    std::vector<float> y;
    for (size_t j = begin; j < end; ++j) {
      weights.push_back(weights_[order[j]]);
    }
    for (size_t t = 0; t < num_tokens_; t += step) {
      for (size_t j = begin; j < end; ++j) {
        y.push_back(At(t, order[j]) - centre[order[j]]);
      }
    }
    alphas[group] = BestAlpha(bits, y, weights);
  }
}

}  // namespace

CodecTables CalibrateSkvq(const CalibrationSample& sample, size_t bits) {
  VARVE_CHECK(sample.num_tokens > 0);
  const auto heads = static_cast<size_t>(sample.num_kv_heads);
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  CodecTables tables;
  tables.values.resize(SkvqTableFloats(heads, head_dim));
  float* at = tables.values.data();
  for (size_t head = 0; head < heads; ++head) {
    Side(sample, sample.k, head, QueryWeights(sample, head)).Calibrate(bits, at);
    at += SkvqSideFloats(head_dim);
    Side(sample, sample.v, head, std::vector<double>(head_dim, 1.0)).Calibrate(bits, at);
    at += SkvqSideFloats(head_dim);
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace varve
