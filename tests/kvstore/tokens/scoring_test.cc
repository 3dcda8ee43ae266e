// What holds for every policy.
#include "kvstore/tokens/policies.h"
#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

// Each head's tokens ascend within a class and are in no other.
void ExpectDistinctInOrder(const TestPage& page, const KeptTokens& kept) {
  ClassSizes sizes = kept.class_sizes;
  if (sizes == ClassSizes{}) {
    sizes = {kept.num_kept};
  }
  std::vector<std::set<int32_t>> seen(static_cast<size_t>(page.num_kv_heads));
  size_t entry = 0;
  for (const int32_t size : sizes) {
    for (std::set<int32_t>& head : seen) {
      int32_t previous = -1;
      for (int32_t i = 0; i < size; ++i) {
        const int32_t token = kept.indices[entry++];
        ASSERT_GT(token, previous);
        ASSERT_LT(token, page.num_tokens);
        ASSERT_TRUE(head.insert(token).second);
        previous = token;
      }
    }
  }
  ASSERT_EQ(entry, kept.indices.size());
}

TEST(TokenPolicies, KeepDistinctTokensInOrderAndNoMoreThanTheySaid) {
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    for (const int32_t tokens : {1, 2, 7, 32, 129}) {
      for (const double keep : {0.01, 0.1, 0.3, 0.5, 0.75, 0.99}) {
        SCOPED_TRACE(std::string(policy->name()) + " keeps " + std::to_string(keep) + " of " +
                     std::to_string(tokens));
        const TestPage page(7, tokens);
        const int32_t most = policy->MostKept(page.Budget(keep));
        const KeptTokens kept = page.Choose(*policy, keep);
        ASSERT_GE(kept.num_kept, 1);
        ASSERT_LE(kept.num_kept, most);
        ASSERT_LE(most, tokens);
        if (!policy->size_depends_on_data() || !policy->further_codecs().empty()) {
          ASSERT_EQ(kept.num_kept, most);
        }
        if (!policy->further_codecs().empty()) {
          ASSERT_LE(ClassBytes(*policy, page.Budget(keep), kept.class_sizes),
                    policy->MostBytes(page.Budget(keep)));
        }
        const auto entries = static_cast<size_t>(page.num_kv_heads * kept.num_kept);
        ASSERT_EQ(kept.indices.size(), entries);
        ASSERT_EQ(kept.weights.size(), policy->has_weights() ? entries : 0);
        ExpectDistinctInOrder(page, kept);
      }
    }
  }
}

// Weights stand for the tokens that went: together they weigh what the page did.
TEST(TokenPolicies, WeightsAddUpToThePage) {
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    if (!policy->has_weights()) {
      continue;
    }
    for (const double keep : {0.1, 0.25, 0.5, 0.8}) {
      const TestPage page(8);
      const KeptTokens kept = page.Choose(*policy, keep);
      for (int32_t head = 0; head < page.num_kv_heads; ++head) {
        float sum = 0;
        for (int32_t i = 0; i < kept.num_kept; ++i) {
          const float weight = kept.weights[static_cast<size_t>(head * kept.num_kept + i)];
          EXPECT_GE(weight, 1) << policy->name();
          sum += weight;
        }
        EXPECT_EQ(sum, static_cast<float>(page.num_tokens)) << policy->name() << ' ' << keep;
      }
    }
  }
}

TEST(TokenPolicies, ChooseTheSameAgainFromTheSamePage) {
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    const TestPage page(9);
    KeptTokens kept = TestPage(10).Choose(*policy, 0.9);  // another result is no starting point
    policy->Choose(page.Tokens(), page.Budget(0.4), kept);
    EXPECT_EQ(kept.indices, page.Choose(*policy, 0.4).indices) << policy->name();
    EXPECT_EQ(kept.weights, page.Choose(*policy, 0.4).weights) << policy->name();
  }
}

TEST(TokenPolicies, ShareOfTokensIsRoundedUpButNotByRoundingErrors) {
  const TokenPolicy& policy = PolicyNamed("streaming");
  EXPECT_EQ(policy.MostKept({0.1, 2, 4, 30}), 3);  // 0.1 * 30 is above 3 in binary
  EXPECT_EQ(policy.MostKept({0.1, 2, 4, 31}), 4);
  EXPECT_EQ(policy.MostKept({0.001, 2, 4, 31}), 1);
  EXPECT_EQ(policy.MostKept({1, 2, 4, 31}), 31);
}

// What a page's bytes may be is asked for before there are tables.
TEST(TokenPolicies, CodecsOfFurtherClassesNeedNoTables) {
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    ASSERT_LT(policy->further_codecs().size(), kMaxTokenClasses);
    for (const Codec* codec : policy->further_codecs()) {
      EXPECT_FALSE(codec->needs_tables()) << policy->name();
    }
  }
}

TEST(TokenPolicies, AClassOfAllTokensHasNoIndices) {
  const TestPage page(3, 32, 64);
  const TokenBudget budget = page.Budget(0.5);
  const TokenPolicy& policy = PolicyNamed("mikv");
  const Codec& rot2 = *FindCodec(CodecId::kRot2).value();
  const RunShape whole{page.num_kv_heads, page.head_dim, 32};
  const RunShape half{page.num_kv_heads, page.head_dim, 16};
  EXPECT_EQ(ClassBytes(policy, budget, {32}), page.codec->EncodedBytes(whole));
  EXPECT_EQ(ClassBytes(policy, budget, {0, 32}), rot2.EncodedBytes(whole));
  EXPECT_EQ(ClassBytes(policy, budget, {16, 16}),
            page.codec->EncodedBytes(half) + rot2.EncodedBytes(half) + 2 * 32 * sizeof(int32_t));
  EXPECT_EQ(ClassBytes(PolicyNamed("kvcrush"), budget, {16}),
            page.codec->EncodedBytes(half) + 2 * 16 * (sizeof(int32_t) + sizeof(float)));
}

TEST(TokenPolicies, OrderByScorePutsTheNewerOfEqualsFirst) {
  const float scores[] = {1, 3, 1, NAN, 3};
  std::vector<int32_t> order(5);
  OrderByScore(scores, order);
  EXPECT_EQ(order, (std::vector<int32_t>{4, 1, 2, 0, 3}));
}

}  // namespace
}  // namespace varve
