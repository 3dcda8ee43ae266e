#include "kernels/codec/rvq_calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "kernels/codec/f16_block.h"
#include "kernels/codec/rvq_search.h"
#include "kernels/cpu/attend_plan.h"
#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr size_t kMaxVectors = 32'768;       // of a side of a layer
constexpr size_t kMaxMeansVectors = 16'384;  // of them, for k-means
constexpr size_t kSmallEntries = 256;
constexpr int kSmallRounds = 6;
constexpr int kLargeRounds = 2;
constexpr size_t kBatches = 16;
constexpr double kDecay = 0.99;
constexpr double kSmoothing = 1e-5;
constexpr uint64_t kSeed = 241'015'704;

// Vectors of 32 channels.
using Vectors = std::vector<float>;

size_t CountOf(std::span<const float> vectors) {
  return vectors.size() / kRvqGroup;
}

// Up to kMaxVectors of the sample's keys or values, scaled, in random order.
Vectors ChooseVectors(const CalibrationSample& sample, bool is_key) {
  const std::vector<float>& x = is_key ? sample.k : sample.v;
  const auto head_dim = static_cast<size_t>(sample.head_dim);
  const size_t groups = RvqGroups(head_dim);
  std::vector<size_t> order(x.size() / head_dim * groups);
  std::iota(order.begin(), order.end(), size_t{0});
  Rng rng(kSeed, is_key ? 1 : 0);
  float split[kMaxHeadDim];
  Vectors chosen;
  for (size_t i = 0; i < order.size() && CountOf(chosen) < kMaxVectors; ++i) {
    std::swap(order[i], order[i + rng.Below(order.size() - i)]);
    const float* row = x.data() + order[i] / groups * head_dim;
    const float scale = F16ToFloat(RvqScale(row, head_dim));
    if (scale > 0.0F) {
      SplitRvqRow(row, head_dim, is_key, scale, split);
      const float* group = split + order[i] % groups * kRvqGroup;
      chosen.insert(chosen.end(), group, group + kRvqGroup);
    }
  }
  return chosen;
}

// What falls to each codeword.
struct Shares {
  std::vector<double> counts;  // [entries]
  std::vector<double> sums;    // [entries, 32]
};

Shares ShareOut(const Vectors& codebook, std::span<const float> vectors) {
  Shares shares{std::vector<double>(CountOf(codebook)), std::vector<double>(codebook.size())};
  std::vector<uint16_t> nearest(CountOf(vectors));
  FindNearestCodewords(
      codebook.data(), CountOf(codebook), vectors.data(), nearest.size(), nearest.data());
  for (size_t v = 0; v < nearest.size(); ++v) {
    shares.counts[nearest[v]] += 1.0;
    for (size_t i = 0; i < kRvqGroup; ++i) {
      shares.sums[nearest[v] * kRvqGroup + i] += vectors[v * kRvqGroup + i];
    }
  }
  return shares;
}

// One round of k-means. A codeword that nothing falls to stays where it is.
void MoveToMeans(std::span<const float> vectors, Vectors* codebook) {
  const Shares shares = ShareOut(*codebook, vectors);
  for (size_t i = 0; i < codebook->size(); ++i) {
    const double count = shares.counts[i / kRvqGroup];
    if (count > 0.0) {
      (*codebook)[i] = static_cast<float>(shares.sums[i] / count);
    }
  }
}

void FollowAverages(std::span<const float> vectors, Vectors* codebook) {
  const size_t entries = CountOf(*codebook);
  const size_t batch = (CountOf(vectors) + kBatches - 1) / kBatches;
  Shares average{std::vector<double>(entries, 1.0),
                 std::vector<double>(codebook->begin(), codebook->end())};
  for (size_t begin = 0; begin < CountOf(vectors); begin += batch) {
    const size_t count = std::min(batch, CountOf(vectors) - begin);
    const Shares shares =
        ShareOut(*codebook, vectors.subspan(begin * kRvqGroup, count * kRvqGroup));
    double total = 0.0;
    for (size_t entry = 0; entry < entries; ++entry) {
      double& own = average.counts[entry];
      own = kDecay * own + (1.0 - kDecay) * shares.counts[entry];
      total += own;
    }
    for (size_t i = 0; i < codebook->size(); ++i) {
      double& own = average.sums[i];
      own = kDecay * own + (1.0 - kDecay) * shares.sums[i];
      const double smoothed = (average.counts[i / kRvqGroup] + kSmoothing) /
                              (total + static_cast<double>(entries) * kSmoothing) * total;
      (*codebook)[i] =
          std::clamp(static_cast<float>(own / smoothed), -kRvqLargestWeight, kRvqLargestWeight);
    }
  }
}

// The codebook of one stage, [entries, 32]. Of fewer vectors than entries some stand twice.
Vectors FitCodebook(std::span<const float> vectors, size_t entries) {
  Vectors codebook(entries * kRvqGroup);
  for (size_t entry = 0; entry < entries && !vectors.empty(); ++entry) {
    std::copy_n(vectors.begin() + static_cast<ptrdiff_t>(entry % CountOf(vectors) * kRvqGroup),
                kRvqGroup,
                codebook.begin() + static_cast<ptrdiff_t>(entry * kRvqGroup));
  }
  const std::span<const float> first =
      vectors.first(std::min(vectors.size(), kMaxMeansVectors * kRvqGroup));
  const int rounds = entries <= kSmallEntries ? kSmallRounds : kLargeRounds;
  for (int round = 0; round < rounds; ++round) {
    MoveToMeans(first, &codebook);
  }
  FollowAverages(vectors, &codebook);
  return codebook;
}

void CalibrateSide(const CalibrationSample& sample,
                   const RvqFormat& format,
                   bool is_key,
                   float* tables) {
  Vectors rest = ChooseVectors(sample, is_key);
  std::vector<uint16_t> nearest(CountOf(rest));
  for (size_t stage = 0; stage < format.stages; ++stage) {
    const Vectors codebook = FitCodebook(rest, RvqEntries(format));
    FindNearestCodewords(
        codebook.data(), RvqEntries(format), rest.data(), nearest.size(), nearest.data());
    SubtractCodewords(codebook.data(), nearest.data(), nearest.size(), rest.data());
    tables = std::copy(codebook.begin(), codebook.end(), tables);
  }
}

}  // namespace

uint16_t RvqScale(const float* row, size_t head_dim) {
  double square = 0.0;
  for (size_t i = 0; i < head_dim; ++i) {
    square += static_cast<double>(row[i]) * row[i];
  }
  const double root = std::sqrt(square / static_cast<double>(head_dim));
  return FloatToF16(std::min(static_cast<float>(root), kF16Largest));
}

void SplitRvqRow(const float* row, size_t head_dim, bool is_key, float scale, float* groups) {
  const size_t num_groups = RvqGroups(head_dim);
  for (size_t group = 0; group < num_groups; ++group) {
    for (size_t i = 0; i < kRvqGroup; ++i) {
      const size_t channel = RvqChannel(is_key, num_groups, group, i);
      groups[group * kRvqGroup + i] = channel < head_dim ? row[channel] / scale : 0.0F;
    }
  }
}

CodecTables CalibrateRvq(const CalibrationSample& sample, const RvqFormat& format) {
  VARVE_CHECK(sample.num_tokens > 0);
  CodecTables tables;
  tables.values.resize(RvqTableFloats(format));
  CalibrateSide(sample, format, true, tables.values.data());
  CalibrateSide(sample, format, false, tables.values.data() + RvqSideFloats(format));
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace varve
