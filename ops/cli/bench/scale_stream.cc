#include "ops/cli/bench/scale_stream.h"

#include <algorithm>
#include <cmath>

#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve::cli {
namespace {

constexpr size_t kNormals = size_t{1} << 22;
constexpr float kTopicPart = 0.5F;  // standard deviation of what a topic's keys have in common
// Standard deviation of the scores of ordinary tokens, by what the head looks for: one of ten
// million tokens outweighs the others at about 17.
constexpr float kSharp = 1.5F;
constexpr float kSpread = 0.5F;
// Of the second head's query, the part that looks for the needle.
constexpr float kPartly = 0.9F;
constexpr float kFoundCosine = 0.5F;

enum Purpose : uint64_t { kPool = 0, kTopic, kStep, kPlace, kNeedle };

Rng RngFor(uint64_t seed, Purpose purpose, uint64_t index, uint64_t part = 0) {
  return Rng(seed, (uint64_t{purpose} << 56) ^ (index << 16) ^ part);
}

double Dot(const float* a, const float* b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    sum += static_cast<double>(a[i]) * b[i];
  }
  return sum;
}

// Scales to the length of a vector of `count` normal numbers.
void Normalise(float* values, size_t count) {
  const double length = std::sqrt(Dot(values, values, count));
  const auto factor = static_cast<float>(std::sqrt(static_cast<double>(count)) / length);
  for (size_t i = 0; i < count; ++i) {
    values[i] *= factor;
  }
}

}  // namespace

ScaleStream::ScaleStream(const ScaleShape& shape, uint64_t seed)
    : shape_(shape),
      seed_(seed),
      width_(static_cast<size_t>(shape.num_kv_heads) * static_cast<size_t>(shape.head_dim)) {
  Rng rng = RngFor(seed_, kPool, 0);
  normals_.resize(kNormals + width_ * static_cast<size_t>(kTopicTokens));
  for (float& value : normals_) {
    value = rng.NextNormal();
  }
}

void ScaleStream::MakeTopic(int64_t topic, float* k, float* v) const {
  Rng rng = RngFor(seed_, kTopic, static_cast<uint64_t>(topic));
  const float* common = normals_.data() + rng.Below(kNormals);
  const float* keys = normals_.data() + rng.Below(kNormals);
  const float* values = normals_.data() + rng.Below(kNormals);
  const size_t count = width_ * static_cast<size_t>(kTopicTokens);
  for (size_t first = 0; first < count; first += width_) {
    for (size_t i = 0; i < width_; ++i) {
      k[first + i] = keys[first + i] + kTopicPart * common[i];
    }
  }
  std::copy_n(values, count, v);
  const int64_t first_token = topic * kTopicTokens;
  const int64_t block = first_token / kBlockTokens;
  const auto head_dim = static_cast<size_t>(shape_.head_dim);
  for (size_t head = 0; head < static_cast<size_t>(shape_.num_kv_heads); ++head) {
    const int64_t token = NeedlePosition(block, head) - first_token;
    if (token >= 0 && token < kTopicTokens) {
      const size_t at = static_cast<size_t>(token) * width_ + head * head_dim;
      std::copy_n(Needle(block, head, 0).data(), head_dim, k + at);
      std::copy_n(Needle(block, head, 1).data(), head_dim, v + at);
    }
  }
}

std::vector<float> ScaleStream::Queries(int64_t tokens, uint64_t step) const {
  const auto head_dim = static_cast<size_t>(shape_.head_dim);
  const auto group = static_cast<size_t>(shape_.num_qo_heads / shape_.num_kv_heads);
  std::vector<float> q(static_cast<size_t>(shape_.num_qo_heads) * head_dim);
  Rng rng = RngFor(seed_, kStep, step, static_cast<uint64_t>(tokens));
  for (size_t head = 0; head < static_cast<size_t>(shape_.num_qo_heads); ++head) {
    const size_t kv_head = head / group;
    float* query = q.data() + head * head_dim;
    const std::vector<float> needle = Needle(BlockOf(tokens, step, kv_head), kv_head, 0);
    const size_t member = head % group;
    const float part = member == 0 ? 1.0F : (member == 1 ? kPartly : 0.0F);
    const float rest = std::sqrt(1.0F - part * part);
    for (size_t i = 0; i < head_dim; ++i) {
      query[i] = part * needle[i] + rest * rng.NextNormal();
    }
    Normalise(query, head_dim);
    // Scores are q.k / sqrt(head_dim): with both of a normal vector's length they have a standard
    // deviation of 1.
    const float deviation = member < 2 ? kSharp : kSpread;
    for (size_t i = 0; i < head_dim; ++i) {
      query[i] *= deviation;
    }
  }
  return q;
}

int64_t ScaleStream::NumFound(int64_t tokens, uint64_t step, const float* o) const {
  const auto head_dim = static_cast<size_t>(shape_.head_dim);
  const auto group = static_cast<size_t>(shape_.num_qo_heads / shape_.num_kv_heads);
  int64_t found = 0;
  for (size_t kv_head = 0; kv_head < static_cast<size_t>(shape_.num_kv_heads); ++kv_head) {
    const std::vector<float> value = Needle(BlockOf(tokens, step, kv_head), kv_head, 1);
    const float* output = o + kv_head * group * head_dim;
    const double lengths =
        std::sqrt(Dot(output, output, head_dim) * Dot(value.data(), value.data(), head_dim));
    found += Dot(output, value.data(), head_dim) > kFoundCosine * lengths ? 1 : 0;
  }
  return found;
}

int64_t ScaleStream::BlockOf(int64_t tokens, uint64_t step, size_t kv_head) const {
  VARVE_CHECK(tokens >= kBlockTokens);
  Rng rng = RngFor(seed_, kStep, step, static_cast<uint64_t>(tokens) + kv_head + 1);
  return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(tokens / kBlockTokens)));
}

std::vector<float> ScaleStream::Needle(int64_t block, size_t kv_head, uint64_t which) const {
  Rng rng = RngFor(seed_, kNeedle, static_cast<uint64_t>(block), 2 * kv_head + which);
  std::vector<float> needle(static_cast<size_t>(shape_.head_dim));
  for (float& value : needle) {
    value = rng.NextNormal();
  }
  Normalise(needle.data(), needle.size());
  return needle;
}

int64_t ScaleStream::NeedlePosition(int64_t block, size_t kv_head) const {
  Rng rng = RngFor(seed_, kPlace, static_cast<uint64_t>(block), kv_head);
  return block * kBlockTokens + static_cast<int64_t>(rng.Below(kBlockTokens));
}

}  // namespace varve::cli
