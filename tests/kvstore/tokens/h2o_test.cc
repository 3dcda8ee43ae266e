#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

TEST(H2O, KeepsTheHeavyHittersOfEachKvHead) {
  TestPage page(1);
  for (const int32_t token : {5, 20}) {
    page.Mass(1, token) = 50;  // of the first kv head's second q head
  }
  for (const int32_t token : {0, 31}) {
    page.Mass(2, token) = 50;
  }
  const KeptTokens kept = page.Choose(PolicyNamed("h2o"), 2.0 / 32);
  EXPECT_EQ(KeptOf(kept, 0), (std::set<int32_t>{5, 20}));
  EXPECT_EQ(KeptOf(kept, 1), (std::set<int32_t>{0, 31}));
}

TEST(H2O, WeighsTheQHeadsOfAGroupTogether) {
  TestPage page(2);
  std::fill(page.mass.begin(), page.mass.end(), 0.0F);
  page.Mass(0, 3) = 2;
  page.Mass(1, 3) = 2;
  page.Mass(0, 9) = 3;
  EXPECT_EQ(KeptOf(page.Choose(PolicyNamed("h2o"), 1.0 / 32), 0), (std::set<int32_t>{3}));
}

TEST(H2O, LooksAtAllQueriesOfThePageAndOfTheRecentWindow) {
  EXPECT_EQ(PolicyNamed("h2o").NumObservedQueries(128, 96), 224);
}

}  // namespace
}  // namespace varve
