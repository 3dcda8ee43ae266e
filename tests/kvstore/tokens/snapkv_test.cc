#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

TEST(SnapKv, KeepsAHeavyHitterWithItsNeighbours) {
  TestPage page(1);
  page.Mass(0, 12) = 50;
  page.Mass(3, 20) = 50;
  const KeptTokens kept = page.Choose(PolicyNamed("snapkv"), 5.0 / 32);
  EXPECT_EQ(KeptOf(kept, 0), (std::set<int32_t>{10, 11, 12, 13, 14}));
  EXPECT_EQ(KeptOf(kept, 1), (std::set<int32_t>{18, 19, 20, 21, 22}));
}

TEST(SnapKv, DoesNotHoldThePagesEdgeAgainstAToken) {
  TestPage page(2);
  std::fill(page.mass.begin(), page.mass.end(), 1.0F);
  page.Mass(0, 0) = 4;
  page.Mass(0, 16) = 4;
  EXPECT_TRUE(KeptOf(page.Choose(PolicyNamed("snapkv"), 1.0 / 32), 0).contains(0));
}

TEST(SnapKv, LooksAtTheLastQueriesOnly) {
  EXPECT_EQ(PolicyNamed("snapkv").NumObservedQueries(128, 128), 32);
  EXPECT_EQ(PolicyNamed("snapkv").NumObservedQueries(8, 8), 16);
}

}  // namespace
}  // namespace varve
