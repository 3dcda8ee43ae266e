#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

TEST(MiKv, KeepsTheHeavyHittersInTheContextsCodecAndTheRestInTwoBits) {
  TestPage page(1);
  for (const int32_t token : {5, 20}) {
    page.Mass(1, token) = 50;  // of the first kv head's second q head
  }
  for (const int32_t token : {0, 31}) {
    page.Mass(2, token) = 50;
  }
  const TokenPolicy& policy = PolicyNamed("mikv");
  ASSERT_EQ(policy.further_codecs().size(), 1U);
  EXPECT_EQ(policy.further_codecs()[0]->name(), "rot2");
  const KeptTokens kept = page.Choose(policy, 2.0 / 32);
  EXPECT_EQ(kept.num_kept, 32);
  EXPECT_EQ(kept.class_sizes, (ClassSizes{2, 30}));
  EXPECT_EQ(ClassOf(page, kept, 0, 0), (std::set<int32_t>{5, 20}));
  EXPECT_EQ(ClassOf(page, kept, 0, 1), (std::set<int32_t>{0, 31}));
  const std::set<int32_t> rest = ClassOf(page, kept, 1, 1);
  EXPECT_EQ(rest.size(), 30U);
  EXPECT_EQ(rest.count(0) + rest.count(31), 0U);
}

TEST(MiKv, MeasuresLikeH2O) {
  const TestPage page(4);
  for (const double keep : {0.1, 0.25, 0.6}) {
    const KeptTokens mixed = page.Choose(PolicyNamed("mikv"), keep);
    const KeptTokens dropped = page.Choose(PolicyNamed("h2o"), keep);
    for (int32_t head = 0; head < page.num_kv_heads; ++head) {
      EXPECT_EQ(ClassOf(page, mixed, 0, head), KeptOf(dropped, head)) << keep;
    }
  }
  EXPECT_EQ(PolicyNamed("mikv").NumObservedQueries(128, 96),
            PolicyNamed("h2o").NumObservedQueries(128, 96));
}

TEST(MiKv, KeepsEveryTokenWhateverTheShare) {
  const TokenPolicy& policy = PolicyNamed("mikv");
  const TestPage page(2, 10);
  EXPECT_EQ(policy.SizesOf(page.Budget(1)), (ClassSizes{10, 0}));
  EXPECT_EQ(policy.SizesOf(page.Budget(0.25)), (ClassSizes{3, 7}));
  EXPECT_EQ(policy.SizesOf(page.Budget(0.001)), (ClassSizes{1, 9}));
  EXPECT_EQ(policy.MostKept(page.Budget(0.001)), 10);
}

}  // namespace
}  // namespace varve
