#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

// Each kv head's mass lies on its first `wide` tokens.
TestPage WidePage(int32_t wide) {
  TestPage page(1);
  std::fill(page.mass.begin(), page.mass.end(), 0.0F);
  for (int32_t head = 0; head < page.num_qo_heads; ++head) {
    for (int32_t token = 0; token < wide; ++token) {
      page.Mass(head, token) = 1;
    }
  }
  return page;
}

TEST(PrefixKv, KeepsAsManyTokensAsTheAttentionIsWide) {
  const TokenPolicy& policy = PolicyNamed("prefixkv");
  EXPECT_EQ(WidePage(8).Choose(policy, 0.5).num_kept, 4);
  EXPECT_EQ(WidePage(20).Choose(policy, 0.5).num_kept, 10);
  EXPECT_EQ(WidePage(1).Choose(policy, 0.5).num_kept, 1);
}

TEST(PrefixKv, KeepsTheTokensWithMostMass) {
  TestPage page = WidePage(4);
  page.Mass(0, 30) = 9;
  page.Mass(2, 30) = 9;
  EXPECT_EQ(KeptOf(page.Choose(PolicyNamed("prefixkv"), 0.5), 1), (std::set<int32_t>{30}));
}

TEST(PrefixKv, KeepsTheShareOfTokensWhereNoQueryWasSeen) {
  EXPECT_EQ(WidePage(0).Choose(PolicyNamed("prefixkv"), 0.25).num_kept, 8);
}

}  // namespace
}  // namespace varve
