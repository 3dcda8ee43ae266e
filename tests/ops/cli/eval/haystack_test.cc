#include "ops/cli/eval/haystack.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

namespace varve::cli {
namespace {

constexpr size_t kDim = Haystack::kHeadDim;

// Mean and deviation of each channel of rows of kDim.
struct Channels {
  explicit Channels(const std::vector<float>& rows) : mean(kDim, 0.0), deviation(kDim, 0.0) {
    const double count = static_cast<double>(rows.size()) / kDim;
    for (size_t i = 0; i < rows.size(); ++i) {
      mean[i % kDim] += rows[i] / count;
      deviation[i % kDim] += static_cast<double>(rows[i]) * rows[i] / count;
    }
    for (size_t i = 0; i < kDim; ++i) {
      deviation[i] = std::sqrt(deviation[i] - mean[i] * mean[i]);
    }
  }
  std::vector<double> mean;
  std::vector<double> deviation;
};

TEST(Haystack, SamePageForTheSameSeedWheneverItIsMade) {
  const Haystack haystack({65'536}, 20, 3);
  const Haystack again({65'536}, 20, 3);
  const Haystack other({65'536}, 20, 4);
  std::vector<float> run(2 * Haystack::kPageFloats);
  std::vector<float> second(run.size());
  haystack.MakePage(100, second.data());
  haystack.MakePage(7, run.data());
  again.MakePage(7, second.data());
  EXPECT_EQ(run, second);
  other.MakePage(7, second.data());
  EXPECT_NE(run, second);
  haystack.MakePage(8, second.data());
  EXPECT_NE(run, second);
}

TEST(Haystack, TheNeedleHoldsAboutHalfOfItsQuerysMass) {
  const Haystack haystack({32'768}, 20, 5);
  const std::vector<float> q = haystack.Queries();
  // The mean of the keys shifts all scores of a query alike, which changes no softmax.
  const Channels sample(haystack.Sample().k);
  std::vector<float> run(2 * Haystack::kPageFloats);
  double sum = 0;
  double most = 0;
  size_t best_page = 0;
  for (size_t page = 0; page < haystack.num_pages(); ++page) {
    haystack.MakePage(page, run.data());
    for (size_t token = 0; token < Haystack::kPageTokens; ++token) {
      double score = 0;
      for (size_t i = 0; i < kDim; ++i) {
        score += q[i] * (run[token * kDim + i] - sample.mean[i]);
      }
      const double mass = std::exp(score);
      sum += mass;
      best_page = mass > most ? page : best_page;
      most = std::max(most, mass);
    }
  }
  EXPECT_EQ(best_page, haystack.needle_page(0));
  EXPECT_GT(most / sum, 0.2);
  EXPECT_LT(most / sum, 0.7);
}

TEST(Haystack, TheSampleHasItsStatisticsAndNoneOfItsTokens) {
  const Haystack haystack({32'768}, 20, 6);
  const CalibrationSample sample = haystack.Sample();
  ASSERT_EQ(sample.k.size(), static_cast<size_t>(sample.num_tokens) * kDim);
  ASSERT_EQ(sample.v.size(), sample.k.size());
  EXPECT_FALSE(sample.has_rope);
  std::vector<float> run(2 * Haystack::kPageFloats);
  std::vector<float> k;
  std::vector<float> v;
  for (size_t page = 0; page < 32; ++page) {
    haystack.MakePage(page, run.data());
    const auto middle = run.begin() + static_cast<ptrdiff_t>(Haystack::kPageFloats);
    k.insert(k.end(), run.begin(), middle);
    v.insert(v.end(), middle, run.end());
    EXPECT_EQ(std::search(sample.k.begin(), sample.k.end(), run.begin(), run.begin() + 4),
              sample.k.end());
  }
  const Channels of_sample(sample.k);
  const Channels of_page(k);
  const Channels values_of_sample(sample.v);
  const Channels values_of_page(v);
  const std::vector<float> q = haystack.Queries();
  for (size_t i = 0; i < kDim; ++i) {
    const double deviation = of_page.deviation[i];
    EXPECT_NEAR(of_sample.mean[i], of_page.mean[i], 0.12 * deviation) << i;
    EXPECT_NEAR(of_sample.deviation[i], deviation, 0.1 * deviation) << i;
    EXPECT_NEAR(values_of_sample.deviation[i], values_of_page.deviation[i], 0.1 * deviation) << i;
    // Queries: two, over the root of the number of channels, over the channel's scale.
    EXPECT_NEAR(std::sqrt(sample.q_moment[i * (kDim + 1)]) * deviation,
                2 / std::sqrt(static_cast<double>(kDim)),
                0.05)
        << i;
  }
}

}  // namespace
}  // namespace varve::cli
