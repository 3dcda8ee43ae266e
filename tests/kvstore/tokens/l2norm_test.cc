#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

TEST(L2Norm, KeepsTheKeysOfSmallestNormOfEachHead) {
  TestPage page(1);
  const std::set<int32_t> small[] = {{3, 9, 31}, {0, 9, 17}};
  for (int32_t head = 0; head < 2; ++head) {
    for (const int32_t token : small[head]) {
      std::fill_n(page.Key(token, head), page.head_dim, 0.001F);
    }
  }
  const KeptTokens kept = page.Choose(PolicyNamed("l2norm"), 3.0 / 32);
  EXPECT_EQ(kept.num_kept, 3);
  EXPECT_EQ(KeptOf(kept, 0), small[0]);
  EXPECT_EQ(KeptOf(kept, 1), small[1]);
}

TEST(L2Norm, LeavesTheFirstTwoLayersWhole) {
  const TokenPolicy& policy = PolicyNamed("l2norm");
  EXPECT_EQ(policy.MostKept({0.25, 0, 8, 32}), 32);
  EXPECT_EQ(policy.MostKept({0.25, 1, 8, 32}), 32);
  EXPECT_EQ(policy.MostKept({0.25, 2, 8, 32}), 8);
}

TEST(L2Norm, TakesKeysThatAreNoNumbersForTheLeastImportant) {
  TestPage page(2);
  for (int32_t token = 0; token < page.num_tokens; token += 2) {
    *page.Key(token, 0) = NAN;
  }
  const KeptTokens kept = page.Choose(PolicyNamed("l2norm"), 0.5);
  for (const int32_t token : KeptOf(kept, 0)) {
    EXPECT_EQ(token % 2, 1);
  }
}

}  // namespace
}  // namespace varve
