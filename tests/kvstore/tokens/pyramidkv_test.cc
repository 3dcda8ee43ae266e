#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

TEST(PyramidKv, SharesFallLinearlyOverTheLayersAndAverageToKeep) {
  const TokenPolicy& policy = PolicyNamed("pyramidkv");
  for (const double keep : {0.1, 0.25, 0.5, 0.7, 0.95, 1.0}) {
    SCOPED_TRACE(keep);
    std::vector<int32_t> kept;
    double sum = 0;
    for (int32_t layer = 0; layer < 9; ++layer) {
      kept.push_back(policy.MostKept({keep, layer, 9, 10'000}));
      sum += kept.back();
    }
    EXPECT_NEAR(sum / 9, keep * 10'000, 1);
    for (size_t layer = 1; layer + 1 < kept.size(); ++layer) {
      EXPECT_NEAR(kept[layer - 1] - kept[layer], kept[layer] - kept[layer + 1], 2);
      EXPECT_GE(kept[layer], kept[layer + 1]);
    }
    EXPECT_LE(kept.front(), 10'000);
  }
  EXPECT_EQ(policy.MostKept({0.1, 0, 9, 10'000}), 1950);
  EXPECT_EQ(policy.MostKept({0.1, 8, 9, 10'000}), 50);
  EXPECT_EQ(policy.MostKept({0.25, 0, 1, 100}), 25);  // one layer has the mean
}

TEST(PyramidKv, KeepsAHeavyHitterWithItsNeighbours) {
  TestPage page(1);
  page.num_layers = 1;
  page.layer = 0;
  page.Mass(0, 12) = 50;
  EXPECT_EQ(KeptOf(page.Choose(PolicyNamed("pyramidkv"), 5.0 / 32), 0),
            (std::set<int32_t>{10, 11, 12, 13, 14}));
}

}  // namespace
}  // namespace varve
