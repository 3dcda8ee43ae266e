#include "worker/sampler.h"

#include <cmath>
#include <limits>
#include <map>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

SamplerScratch& Scratch() {
  static SamplerScratch scratch;
  return scratch;
}

Sample Draw(const std::vector<float>& logits,
            const SamplingParams& params,
            int64_t position = 0,
            int32_t top = 0) {
  Result<Sample> sample = SampleToken(logits, params, position, top, Scratch());
  EXPECT_OK(sample);
  return sample ? *sample : Sample{};
}

std::vector<float> RandomLogits(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) {
    logit = 3.0F * rng.NextNormal();
  }
  return logits;
}

double LogSumExp(const std::vector<float>& logits) {
  double highest = -1e30;
  for (const float logit : logits) {
    highest = std::max(highest, static_cast<double>(logit));
  }
  double total = 0;
  for (const float logit : logits) {
    total += std::exp(logit - highest);
  }
  return highest + std::log(total);
}

TEST(Sampler, GreedyTakesTheMostLikelyAndTheLowestIdOnTies) {
  EXPECT_EQ(Draw({1.0F, 3.0F, 2.0F}, {}).token.token, 1);
  EXPECT_EQ(Draw({-7.0F, 3.0F, 3.0F, 3.0F}, {}).token.token, 1);
  EXPECT_EQ(Draw({5.0F}, {}).token.token, 0);
}

TEST(Sampler, LogprobsAreOfTheUntemperedDistribution) {
  const std::vector<float> logits = RandomLogits(1003, 5);
  const double total = LogSumExp(logits);
  for (const float temperature : {0.0F, 0.5F, 2.0F}) {
    const Sample sample = Draw(logits, {.temperature = temperature, .seed = 3}, 17, 5);
    EXPECT_NEAR(
        sample.token.logprob, logits[static_cast<size_t>(sample.token.token)] - total, 1e-5);
    ASSERT_EQ(sample.top.size(), 5U);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(
          sample.top[i].logprob, logits[static_cast<size_t>(sample.top[i].token)] - total, 1e-5);
      EXPECT_TRUE(i == 0 || sample.top[i].logprob <= sample.top[i - 1].logprob);
    }
  }
  EXPECT_EQ(Draw(logits, {}, 0, 5).top[0].token, Draw(logits, {}).token.token);
  EXPECT_EQ(Draw({1.0F, 1.0F}, {}, 0, 20).top.size(), 2U);
  EXPECT_EQ(Draw({1.0F, 2.0F, 2.0F}, {}, 0, 2).top[0].token, 1);
}

TEST(Sampler, SeedAndPositionDecideTheDraw) {
  const std::vector<float> logits = RandomLogits(50, 1);
  const SamplingParams params{.temperature = 1.0F, .top_p = 0.95F, .seed = 42};
  std::map<int32_t, int> seen;
  for (int64_t position = 0; position < 50; ++position) {
    const int32_t token = Draw(logits, params, position).token.token;
    EXPECT_EQ(Draw(logits, params, position).token.token, token);
    ++seen[token];
  }
  EXPECT_GT(seen.size(), 3U);
  SamplingParams other = params;
  other.seed = 43;
  int different = 0;
  for (int64_t position = 0; position < 50; ++position) {
    different +=
        Draw(logits, params, position).token.token != Draw(logits, other, position).token.token ? 1
                                                                                                : 0;
  }
  EXPECT_GT(different, 10);
}

// Frequencies of many draws against the probabilities; 5 standard deviations.
TEST(Sampler, DrawsFollowTheTemperedDistribution) {
  const std::vector<float> logits = {0.0F, 1.0F, 2.0F, -1.0F};
  constexpr int kDraws = 20000;
  for (const float temperature : {0.7F, 1.0F, 1.6F}) {
    std::vector<int> counts(logits.size());
    for (int64_t i = 0; i < kDraws; ++i) {
      ++counts[static_cast<size_t>(
          Draw(logits, {.temperature = temperature, .seed = 9}, i).token.token)];
    }
    std::vector<float> tempered = logits;
    for (float& logit : tempered) {
      logit /= temperature;
    }
    const double total = LogSumExp(tempered);
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(tempered[i] - total);
      EXPECT_NEAR(counts[i], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p))) << "token " << i;
    }
  }
}

TEST(Sampler, NucleusIsTheSmallestSetThatReachesTopP) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {
      std::log(0.25F), std::log(0.5F), std::log(0.125F), std::log(0.125F)};
  const auto drawn = [&](float top_p) {
    std::map<int32_t, int> seen;
    for (int64_t i = 0; i < 500; ++i) {
      ++seen[Draw(logits, {.temperature = 1.0F, .top_p = top_p, .seed = 1}, i).token.token];
    }
    std::vector<int32_t> tokens;
    for (const auto& [token, count] : seen) {
      tokens.push_back(token);
    }
    return tokens;
  };
  EXPECT_EQ(drawn(0.4F), (std::vector<int32_t>{1}));
  EXPECT_EQ(drawn(0.6F), (std::vector<int32_t>{0, 1}));
  // On a tie the lower id is in.
  EXPECT_EQ(drawn(0.8F), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(drawn(0.99F), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(drawn(1e-6F), (std::vector<int32_t>{1}));
}

// The candidates are cut by a bound before they are sorted: it must not cut the nucleus, whatever
// the distribution.
TEST(Sampler, CuttingCandidatesDoesNotChangeTheNucleus) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> logits = RandomLogits(300, seed);
    std::vector<size_t> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
    }
    std::sort(
        order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    const double total = LogSumExp(logits);
    for (const float top_p : {0.1F, 0.5F, 0.9F, 0.999F}) {
      double mass = 0;
      size_t size = 0;
      while (mass < top_p * 1.0001) {  // one more where rounding could decide
        mass += std::exp(logits[order[size++]] - total);
        if (size == order.size()) {
          break;
        }
      }
      for (int64_t i = 0; i < 100; ++i) {
        const auto token = static_cast<size_t>(
            Draw(logits, {.temperature = 1.0F, .top_p = top_p, .seed = seed}, i).token.token);
        const auto rank = std::find(order.begin(), order.end(), token) - order.begin();
        EXPECT_LE(static_cast<size_t>(rank), size);
      }
    }
  }
}

TEST(Sampler, TakesExtremes) {
  EXPECT_EQ(Draw({-1e30F, 0.0F, -1e30F}, {.temperature = 1.0F, .seed = 1}).token.token, 1);
  EXPECT_EQ(Draw({1e30F, 0.0F}, {.temperature = 1e-30F, .seed = 1}).token.token, 0);
  EXPECT_EQ(Draw({0.0F, 1e-3F}, {.temperature = 1e-30F, .seed = 1}).token.token, 1);
}

TEST(Sampler, RefusesWhatIsNotADistribution) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_ERROR(SampleToken(std::vector<float>{0.0F, nan, 1.0F}, {}, 0, 0, Scratch()),
               ErrorCode::kInternal);
  EXPECT_ERROR(SampleToken(std::vector<float>{nan, 0.0F}, {}, 0, 0, Scratch()),
               ErrorCode::kInternal);
  EXPECT_ERROR(SampleToken(std::vector<float>{0.0F, infinity}, {}, 0, 0, Scratch()),
               ErrorCode::kInternal);
  const std::vector<float> logits = {0.0F, 1.0F};
  EXPECT_ERROR(SampleToken(logits, {.temperature = -1.0F}, 0, 0, Scratch()),
               ErrorCode::kInvalidArgument);
  EXPECT_ERROR(SampleToken(logits, {.temperature = nan}, 0, 0, Scratch()),
               ErrorCode::kInvalidArgument);
  EXPECT_ERROR(SampleToken(logits, {.top_p = 0.0F}, 0, 0, Scratch()), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(SampleToken(logits, {.top_p = 1.5F}, 0, 0, Scratch()), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace varve
