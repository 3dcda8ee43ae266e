#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

float WeightOf(const KeptTokens& kept, int32_t head, int32_t token) {
  for (int32_t i = 0; i < kept.num_kept; ++i) {
    const auto at = static_cast<size_t>(head * kept.num_kept + i);
    if (kept.indices[at] == token) {
      return kept.weights[at];
    }
  }
  return 0;
}

TEST(KvCrush, HeavyHittersStayAsTheyAreAndRepresentativesStandForTheRest) {
  TestPage page(1);
  for (const int32_t token : {4, 11, 25}) {
    page.Mass(0, token) = 50;
    page.Mass(2, token) = 50;
  }
  const KeptTokens kept = page.Choose(PolicyNamed("kvcrush"), 4.0 / 32);
  EXPECT_EQ(kept.num_kept, 4);
  for (int32_t head = 0; head < 2; ++head) {
    for (const int32_t token : {4, 11, 25}) {
      EXPECT_EQ(WeightOf(kept, head, token), 1);
    }
    EXPECT_EQ(
        *std::max_element(kept.weights.begin() + head * 4, kept.weights.begin() + head * 4 + 4),
        29);
  }
}

// Tokens that the other head would have kept are another group than those that no head wants.
TEST(KvCrush, GroupsTokensByTheHeadsThatWouldKeepThem) {
  TestPage page(2);
  std::fill(page.mass.begin(), page.mass.end(), 0.0F);
  for (int32_t token = 0; token < 6; ++token) {
    page.Mass(0, token) = 10;  // the first kv head wants these,
    page.Mass(1, token) = 10;
  }
  for (int32_t token = 16; token < 22; ++token) {
    page.Mass(2, token) = 10;  // the second these
    page.Mass(3, token) = 10;
  }
  page.Mass(0, 18) = 1;  // the first head's best of what the second wants
  const KeptTokens kept = page.Choose(PolicyNamed("kvcrush"), 8.0 / 32);
  ASSERT_EQ(kept.num_kept, 8);  // six important, two representatives
  const std::set<int32_t> first = KeptOf(kept, 0);
  for (int32_t token = 0; token < 6; ++token) {
    EXPECT_TRUE(first.contains(token));
  }
  EXPECT_TRUE(first.contains(18));
  EXPECT_EQ(WeightOf(kept, 0, 18), 13);
}

}  // namespace
}  // namespace varve
