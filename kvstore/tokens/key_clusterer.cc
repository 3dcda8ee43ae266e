#include "kvstore/tokens/key_clusterer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dense.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// 0 for what has no direction.
float InverseNorm(double sum_of_squares) {
  return sum_of_squares > 0 ? static_cast<float>(1 / std::sqrt(sum_of_squares)) : 0.0F;
}

}  // namespace

uint64_t KeyClusterer::WorkspaceBytes(int32_t page_tokens) const {
  const auto tokens = static_cast<uint64_t>(page_tokens);
  // As many centres as keys, at most.
  return tokens * ((2 * head_dim_ + 2) * sizeof(float) + 3 * sizeof(size_t));
}

void KeyClusterer::Reserve(int32_t page_tokens) {
  const auto tokens = static_cast<size_t>(page_tokens);
  units_.reserve(tokens * head_dim_);
  centres_.reserve(tokens * head_dim_);
  cosines_.reserve(tokens);
  nearest_.reserve(tokens);
  cluster_.reserve(tokens);
  next_.reserve(tokens);
  starts_.reserve(tokens);
}

void KeyClusterer::Cluster(const float* k,
                           int32_t num_tokens,
                           int32_t num_clusters,
                           std::span<uint16_t> centroids) {
  const auto tokens = static_cast<size_t>(num_tokens);
  const auto clusters = static_cast<size_t>(num_clusters);
  VARVE_CHECK(num_clusters >= 1 && num_clusters <= num_tokens);
  VARVE_CHECK(centroids.size() == clusters * num_kv_heads_ * head_dim_);
  units_.resize(tokens * head_dim_);
  centres_.resize(clusters * head_dim_);
  cosines_.resize(tokens);
  nearest_.resize(tokens);
  for (size_t head = 0; head < num_kv_heads_; ++head) {
    const float* keys = k + head * head_dim_;
    Normalise(keys, tokens);
    PlaceCentres(clusters);
    cluster_.assign(tokens, clusters);
    for (int round = 0; round < kRounds && Assign(clusters); ++round) {
      MoveCentres(clusters);
    }
    for (size_t cluster = 0; cluster < clusters; ++cluster) {
      const std::span<float> mean(centres_.data() + cluster * head_dim_, head_dim_);
      Mean(keys, cluster, mean);
      NarrowToBf16(
          mean.data(), head_dim_, centroids.data() + (cluster * num_kv_heads_ + head) * head_dim_);
    }
  }
}

void KeyClusterer::Normalise(const float* head_keys, size_t num_tokens) {
  for (size_t t = 0; t < num_tokens; ++t) {
    const float* key = head_keys + t * num_kv_heads_ * head_dim_;
    double squares = 0;
    for (size_t d = 0; d < head_dim_; ++d) {
      squares += static_cast<double>(key[d]) * static_cast<double>(key[d]);
    }
    const float inverse = InverseNorm(squares);
    for (size_t d = 0; d < head_dim_; ++d) {
      units_[d * num_tokens + t] = key[d] * inverse;
    }
  }
}

void KeyClusterer::PlaceCentres(size_t num_clusters) {
  const size_t num_tokens = nearest_.size();
  std::fill(nearest_.begin(), nearest_.end(), -std::numeric_limits<float>::infinity());
  starts_.clear();
  size_t farthest = 0;
  for (size_t cluster = 0; cluster < num_clusters; ++cluster) {
    starts_.push_back(farthest);
    for (size_t d = 0; d < head_dim_; ++d) {
      centres_[cluster * head_dim_ + d] = units_[d * num_tokens + farthest];
    }
    MeasureCosines(cluster);
    for (size_t t = 0; t < num_tokens; ++t) {
      nearest_[t] = std::max(nearest_[t], cosines_[t]);
    }
    farthest =
        static_cast<size_t>(std::min_element(nearest_.begin(), nearest_.end()) - nearest_.begin());
  }
}

void KeyClusterer::MeasureCosines(size_t cluster) {
  const size_t num_tokens = cosines_.size();
  std::fill(cosines_.begin(), cosines_.end(), 0.0F);
  for (size_t d = 0; d < head_dim_; ++d) {
    const float centre = centres_[cluster * head_dim_ + d];
    const float* units = units_.data() + d * num_tokens;
    for (size_t t = 0; t < num_tokens; ++t) {
      cosines_[t] += centre * units[t];
    }
  }
}

bool KeyClusterer::Assign(size_t num_clusters) {
  const size_t num_tokens = nearest_.size();
  std::fill(nearest_.begin(), nearest_.end(), -std::numeric_limits<float>::infinity());
  next_.assign(num_tokens, 0);
  for (size_t cluster = 0; cluster < num_clusters; ++cluster) {
    MeasureCosines(cluster);
    for (size_t t = 0; t < num_tokens; ++t) {
      if (cosines_[t] > nearest_[t]) {
        nearest_[t] = cosines_[t];
        next_[t] = cluster;
      }
    }
  }
  cluster_.swap(next_);
  return cluster_ != next_;
}

void KeyClusterer::MoveCentres(size_t num_clusters) {
  const size_t num_tokens = nearest_.size();
  for (size_t cluster = 0; cluster < num_clusters; ++cluster) {
    if (std::find(cluster_.begin(), cluster_.end(), cluster) == cluster_.end()) {
      continue;
    }
    float* centre = centres_.data() + cluster * head_dim_;
    double squares = 0;
    for (size_t d = 0; d < head_dim_; ++d) {
      centre[d] = 0;
      for (size_t t = 0; t < num_tokens; ++t) {
        centre[d] += cluster_[t] == cluster ? units_[d * num_tokens + t] : 0.0F;
      }
      squares += static_cast<double>(centre[d]) * static_cast<double>(centre[d]);
    }
    ScaleInPlace(centre, InverseNorm(squares), head_dim_);
  }
}

void KeyClusterer::Mean(const float* head_keys, size_t cluster, std::span<float> mean) const {
  const size_t stride = num_kv_heads_ * head_dim_;
  std::fill(mean.begin(), mean.end(), 0.0F);
  size_t count = 0;
  for (size_t t = 0; t < cluster_.size(); ++t) {
    if (cluster_[t] == cluster) {
      AddInPlace(mean.data(), head_keys + t * stride, head_dim_);
      ++count;
    }
  }
  if (count == 0) {
    std::copy_n(head_keys + starts_[cluster] * stride, head_dim_, mean.data());
    return;
  }
  ScaleInPlace(mean.data(), 1.0F / static_cast<float>(count), head_dim_);
}

}  // namespace varve
