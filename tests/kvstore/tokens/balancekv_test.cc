#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

// The attention output of a query over weighted tokens of kv head 0.
std::vector<double> Attention(TestPage& page,
                              const std::vector<float>& q,
                              const std::vector<std::pair<int32_t, float>>& tokens) {
  std::vector<double> o(static_cast<size_t>(page.head_dim));
  double sum = 0;
  for (const auto& [token, weight] : tokens) {
    double score = 0;
    for (size_t d = 0; d < o.size(); ++d) {
      score += static_cast<double>(q[d]) * page.Key(token, 0)[d];
    }
    const double p = weight * std::exp(0.35 * score);
    sum += p;
    for (size_t d = 0; d < o.size(); ++d) {
      o[d] += p * page.v[static_cast<size_t>(token * page.num_kv_heads * page.head_dim) + d];
    }
  }
  for (double& value : o) {
    value /= sum;
  }
  return o;
}

double MeanError(const TokenPolicy& policy, int32_t num_tokens) {
  double error = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    TestPage page(seed, num_tokens);
    Rng rng(100 + seed);
    std::vector<float> q(static_cast<size_t>(page.head_dim));
    for (float& number : q) {
      number = rng.NextNormal();
    }
    std::vector<std::pair<int32_t, float>> all;
    for (int32_t token = 0; token < num_tokens; ++token) {
      all.emplace_back(token, 1.0F);
    }
    const KeptTokens kept = page.Choose(policy, 0.5);
    std::vector<std::pair<int32_t, float>> left;
    for (int32_t i = 0; i < kept.num_kept; ++i) {
      const auto at = static_cast<size_t>(i);
      left.emplace_back(kept.indices[at], kept.weights.empty() ? 1.0F : kept.weights[at]);
    }
    const std::vector<double> want = Attention(page, q, all);
    const std::vector<double> got = Attention(page, q, left);
    for (size_t d = 0; d < want.size(); ++d) {
      error += (want[d] - got[d]) * (want[d] - got[d]);
    }
  }
  return error;
}

TEST(BalanceKv, HalvesWithDoubledWeights) {
  const KeptTokens kept = TestPage(1).Choose(PolicyNamed("balancekv"), 0.5);
  EXPECT_EQ(kept.num_kept, 16);
  EXPECT_EQ(kept.weights, std::vector<float>(32, 2.0F));
  const KeptTokens quarter = TestPage(1).Choose(PolicyNamed("balancekv"), 0.25);
  EXPECT_EQ(quarter.weights, std::vector<float>(16, 4.0F));
}

TEST(BalanceKv, MeetsABudgetBetweenByHalvingTheOldestOnly) {
  const KeptTokens kept = TestPage(1).Choose(PolicyNamed("balancekv"), 0.75);
  ASSERT_EQ(kept.num_kept, 24);
  for (size_t i = 0; i < 24; ++i) {
    EXPECT_EQ(kept.weights[i], i < 8 ? 2 : 1);
  }
}

// Of each two equal neighbours it does not matter which one stays: nothing is lost.
TEST(BalanceKv, LosesNothingOfPairsOfEqualTokens) {
  TestPage page(3);
  const auto row = static_cast<ptrdiff_t>(page.num_kv_heads * page.head_dim);
  for (int32_t token = 0; token < page.num_tokens; token += 2) {
    std::copy_n(page.k.begin() + token * row, row, page.k.begin() + (token + 1) * row);
    std::copy_n(page.v.begin() + token * row, row, page.v.begin() + (token + 1) * row);
  }
  const KeptTokens kept = page.Choose(PolicyNamed("balancekv"), 0.5);
  for (int32_t i = 0; i < 16; ++i) {
    EXPECT_EQ(kept.indices[static_cast<size_t>(i)] / 2, i);
  }
}

TEST(BalanceKv, DisturbsAttentionLessThanAChoiceByPosition) {
  EXPECT_LT(MeanError(PolicyNamed("balancekv"), 64), 0.7 * MeanError(PolicyNamed("streaming"), 64));
}

}  // namespace
}  // namespace varve
