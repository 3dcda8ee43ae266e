#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

TEST(DBudget, KeepsWhatHoldsNinetyNinePercentOfEveryHeadsMass) {
  TestPage page(1);
  std::fill(page.mass.begin(), page.mass.end(), 0.001F);
  for (int32_t token = 0; token < 3; ++token) {
    page.Mass(0, token) = 10;
  }
  for (int32_t token = 20; token < 27; ++token) {
    page.Mass(2, token) = 10;
  }
  const KeptTokens kept = page.Choose(PolicyNamed("dbudget"), 0.01);
  EXPECT_EQ(kept.num_kept, 7);  // the wider head decides
  EXPECT_EQ(KeptOf(kept, 1), (std::set<int32_t>{20, 21, 22, 23, 24, 25, 26}));
  for (int32_t token = 0; token < 3; ++token) {
    EXPECT_TRUE(KeptOf(kept, 0).contains(token));
  }
}

TEST(DBudget, KeepsAtLeastItsShareAndAllOfAnEvenPage) {
  TestPage page(2);
  std::fill(page.mass.begin(), page.mass.end(), 0.0F);
  page.Mass(0, 3) = 1;
  page.Mass(2, 3) = 1;
  EXPECT_EQ(page.Choose(PolicyNamed("dbudget"), 0.5).num_kept, 16);
  std::fill(page.mass.begin(), page.mass.end(), 1.0F);
  EXPECT_EQ(page.Choose(PolicyNamed("dbudget"), 0.01).num_kept, 32);
}

TEST(DBudget, KeepsEverythingWhereNoQueryWasSeen) {
  TestPage page(3);
  std::fill(page.mass.begin(), page.mass.end(), 0.0F);
  EXPECT_EQ(page.Choose(PolicyNamed("dbudget"), 0.1).num_kept, 32);
}

}  // namespace
}  // namespace varve
