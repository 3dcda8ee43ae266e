#include "worker/page_sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

std::vector<float> Draws(size_t count, uint64_t seed) {
  std::vector<float> draws;
  for (size_t i = 0; i < count; ++i) {
    draws.push_back(DrawOf(seed, 0, static_cast<int64_t>(i)));
  }
  return draws;
}

std::vector<float> SizesOf(size_t count, float deviation) {
  Rng rng(11);
  std::vector<float> sizes;
  for (size_t i = 0; i < count; ++i) {
    sizes.push_back(std::exp(deviation * rng.NextNormal()));
  }
  return sizes;
}

TEST(PageSampler, ReadsAsManyPagesAsItIsAskedTo) {
  const std::vector<float> sizes = SizesOf(500, 1.0F);
  const std::vector<float> draws = Draws(500, 1);
  PageSampler sampler;
  sampler.Reset(sizes, draws);
  for (const int64_t count : {20, 50, 200, 400}) {
    sampler.Choose(count);
    const auto chosen = std::count_if(sampler.probabilities().begin(),
                                      sampler.probabilities().end(),
                                      [](float p) { return p > 0.0F; });
    EXPECT_EQ(chosen, sampler.num_chosen());
    EXPECT_EQ(chosen, count);
    EXPECT_GE(sampler.num_drawn(), PageSampler::kFewestDrawn);
  }
}

TEST(PageSampler, ReadsAllWhereFewWouldBeLeftOut) {
  const std::vector<float> sizes = SizesOf(20, 0.1F);
  const std::vector<float> draws = Draws(20, 1);
  PageSampler sampler;
  sampler.Reset(sizes, draws);
  sampler.Choose(12);
  EXPECT_EQ(sampler.num_chosen(), 12);
  sampler.Choose(20);
  EXPECT_EQ(sampler.num_chosen(), 20);
  EXPECT_EQ(sampler.num_drawn(), 0);
  for (const float p : sampler.probabilities()) {
    EXPECT_EQ(p, 1.0F);
  }
  const std::vector<float> none;
  sampler.Reset(none, none);
  sampler.Choose(5);
  EXPECT_EQ(sampler.num_chosen(), 0);
}

TEST(PageSampler, LargePagesAreReadForSureAndStillOthersAreDrawn) {
  std::vector<float> sizes(400, 1.0F);
  std::fill_n(sizes.begin() + 100, 30, 1e6F);
  const std::vector<float> draws = Draws(400, 5);
  PageSampler sampler;
  sampler.Reset(sizes, draws);
  sampler.Choose(31);
  for (size_t i = 100; i < 130; ++i) {
    EXPECT_EQ(sampler.probabilities()[i], 1.0F);
  }
  EXPECT_EQ(sampler.num_drawn(), PageSampler::kFewestDrawn);
  EXPECT_EQ(sampler.num_chosen(), 30 + PageSampler::kFewestDrawn);
}

TEST(PageSampler, PagesAreReadAsOftenAsTheirProbabilitySays) {
  const std::vector<float> sizes = SizesOf(120, 1.2F);
  std::vector<int> read(sizes.size(), 0);
  std::vector<float> probabilities(sizes.size(), 0.0F);
  constexpr int kTrials = 20000;
  PageSampler sampler;
  for (int trial = 0; trial < kTrials; ++trial) {
    const std::vector<float> draws = Draws(sizes.size(), static_cast<uint64_t>(trial));
    sampler.Reset(sizes, draws);
    sampler.Choose(40);
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sampler.probabilities()[i] > 0.0F) {
        ++read[i];
        probabilities[i] = sampler.probabilities()[i];
      }
    }
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    const double p = probabilities[i];
    const double share = read[i] / static_cast<double>(kTrials);
    // Pareto sampling meets the probabilities to about a hundredth; the rest is chance.
    EXPECT_NEAR(share, p, 0.01 * p + 5 * std::sqrt(p * (1 - p) / kTrials)) << "page " << i;
  }
}

TEST(PageSampler, LargerSamplesContainAlmostAllOfSmallerOnes) {
  const std::vector<float> sizes = SizesOf(1000, 0.8F);
  const std::vector<float> draws = Draws(1000, 9);
  PageSampler sampler;
  sampler.Reset(sizes, draws);
  sampler.Choose(40);
  const std::vector<float> few(sampler.probabilities().begin(), sampler.probabilities().end());
  sampler.Choose(80);
  int lost = 0;
  for (size_t i = 0; i < few.size(); ++i) {
    lost += few[i] > 0.0F && sampler.probabilities()[i] == 0.0F ? 1 : 0;
  }
  EXPECT_LE(lost, 2);
}

TEST(PageSampler, DrawsDependOnSeedLayerAndPageAndLieBetweenZeroAndOne) {
  double sum = 0.0;
  for (int64_t page = 0; page < 10000; ++page) {
    const float draw = DrawOf(1, 2, page);
    EXPECT_GT(draw, 0.0F);
    EXPECT_LT(draw, 1.0F);
    sum += draw / 10000;
    EXPECT_EQ(draw, DrawOf(1, 2, page));
  }
  EXPECT_NEAR(sum, 0.5, 0.02);
  EXPECT_NE(DrawOf(1, 2, 3), DrawOf(2, 2, 3));
  EXPECT_NE(DrawOf(1, 2, 3), DrawOf(1, 3, 3));
  EXPECT_NE(DrawOf(1, 2, 3), DrawOf(1, 2, 4));
}

}  // namespace
}  // namespace varve
