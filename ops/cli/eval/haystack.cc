#include "ops/cli/eval/haystack.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "ops/cli/eval/normal.h"

namespace varve::cli {
namespace {

constexpr size_t kDecoys = 8;  // of each query
constexpr size_t kOutlierChannels = 4;
constexpr double kDeviation = 2;    // of the scores of ordinary tokens
constexpr double kDecoyMargin = 2;  // below the needle
constexpr size_t kSamplePages = 32;
constexpr size_t kSampleQueries = 512;
// Pages are drawn from the streams behind 0; no haystack has so many.
constexpr uint64_t kSampleStream = uint64_t{1} << 60;

// Random directions of length one.
std::vector<float> DrawDirections(size_t count, Rng* rng) {
  constexpr size_t kDim = Haystack::kHeadDim;
  std::vector<float> directions(count * kDim);
  FillNormal(rng, directions);
  for (size_t i = 0; i < count; ++i) {
    float* u = directions.data() + i * kDim;
    const double norm = std::sqrt(std::inner_product(u, u + kDim, u, 0.0));
    std::transform(u, u + kDim, u, [norm](float x) { return static_cast<float>(x / norm); });
  }
  return directions;
}

std::vector<float> QueriesAlong(const std::vector<float>& directions,
                                const std::vector<float>& scale) {
  std::vector<float> q(directions.size());
  for (size_t i = 0; i < q.size(); ++i) {
    q[i] = static_cast<float>(kDeviation * directions[i] / scale[i % Haystack::kHeadDim]);
  }
  return q;
}

}  // namespace

Haystack::Haystack(std::vector<int64_t> lengths, double outliers, uint64_t seed)
    : lengths_(std::move(lengths)), seed_(seed), scale_(kHeadDim, 1.0F), mean_(kHeadDim, 0.0F) {
  Rng rng(seed);
  for (size_t i = 0; i < kOutlierChannels; ++i) {
    const size_t channel = i * (kHeadDim / kOutlierChannels) + rng.Below(8);
    scale_[channel] = static_cast<float>(outliers);
    mean_[channel] = static_cast<float>((i % 2 == 0 ? 1 : -1) * (outliers - 1));
  }
  directions_ = DrawDirections(num_queries(), &rng);
  for (size_t query = 0; query < num_queries(); ++query) {
    PlantFor(query, &rng);
  }
}

std::vector<float> Haystack::Queries() const {
  return QueriesAlong(directions_, scale_);
}

void Haystack::MakePage(size_t page, float* run) const {
  Rng rng(seed_, page + 1);
  FillNormal(&rng, {run, 2 * kPageFloats});
  const auto planted = plants_.find(page);
  if (planted != plants_.end()) {
    for (const Plant& plant : planted->second) {
      // Along the query, and nothing else: the shortest way to that score.
      const float* u = directions_.data() + plant.query * kHeadDim;
      float* z = run + plant.token * kHeadDim;
      const double missing = plant.score / kDeviation - std::inner_product(u, u + kHeadDim, z, 0.0);
      for (size_t i = 0; i < kHeadDim; ++i) {
        z[i] += static_cast<float>(missing * u[i]);
      }
    }
  }
  Shape(run);
}

CalibrationSample Haystack::Sample() const {
  CalibrationSample sample;
  sample.num_kv_heads = 1;
  sample.head_dim = static_cast<int32_t>(kHeadDim);
  sample.num_tokens = static_cast<int64_t>(kSamplePages * kPageTokens);
  Rng rng(seed_, kSampleStream);
  std::vector<float> run(2 * kPageFloats);
  for (size_t page = 0; page < kSamplePages; ++page) {
    FillNormal(&rng, run);
    Shape(run.data());
    sample.k.insert(sample.k.end(), run.begin(), run.begin() + kPageFloats);
    sample.v.insert(sample.v.end(), run.begin() + kPageFloats, run.end());
  }
  sample.q_moment.resize(kHeadDim * kHeadDim, 0.0);
  const std::vector<float> q = QueriesAlong(DrawDirections(kSampleQueries, &rng), scale_);
  for (size_t query = 0; query < kSampleQueries; ++query) {
    const float* row = q.data() + query * kHeadDim;
    for (size_t i = 0; i < kHeadDim; ++i) {
      for (size_t j = 0; j < kHeadDim; ++j) {
        sample.q_moment[i * kHeadDim + j] += static_cast<double>(row[i]) * row[j] / kSampleQueries;
      }
    }
  }
  return sample;
}

// The needle and the decoys of a query, in pages that hold no other of its tokens.
void Haystack::PlantFor(size_t query, Rng* rng) {
  const double needle =
      std::log(static_cast<double>(lengths_[query / kQueries])) + kDeviation * kDeviation / 2;
  for (size_t i = 0; i <= kDecoys;) {
    const size_t page = rng->Below(pages_of(query));
    const size_t token = rng->Below(kPageTokens);
    std::vector<Plant>& planted = plants_[page];
    const bool is_taken = std::any_of(planted.begin(), planted.end(), [&](const Plant& plant) {
      return plant.query == query || plant.token == token;
    });
    if (is_taken) {
      continue;
    }
    planted.push_back({token, query, i == 0 ? needle : needle - kDecoyMargin});
    if (i == 0) {
      needle_pages_.push_back(page);
    }
    ++i;
  }
}

void Haystack::Shape(float* run) const {
  for (size_t i = 0; i < kPageFloats; ++i) {
    run[i] = run[i] * scale_[i % kHeadDim] + mean_[i % kHeadDim];
    run[kPageFloats + i] *= scale_[i % kHeadDim];
  }
}

}  // namespace varve::cli
