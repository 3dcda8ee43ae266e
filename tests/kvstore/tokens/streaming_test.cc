#include "tests/kvstore/tokens/page_cases.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

TEST(Streaming, KeepsNothingOfAPageWithTheShareOfThePaper) {
  EXPECT_EQ(PolicyNamed("streaming").MostKept({0, 3, 4, 128}), 0);
}

TEST(Streaming, KeepsTheNewestTokensOfAPageWithALargerShare) {
  const KeptTokens kept = TestPage(1).Choose(PolicyNamed("streaming"), 0.125);
  EXPECT_EQ(KeptOf(kept, 0), (std::set<int32_t>{28, 29, 30, 31}));
  EXPECT_EQ(KeptOf(kept, 1), (std::set<int32_t>{28, 29, 30, 31}));
}

TEST(Streaming, IsTheOnlyOneThatMayKeepNothing) {
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    KvPolicy kv;
    kv.tokens = policy->name();
    kv.keep = 0;
    if (policy->name() == "streaming") {
      EXPECT_OK(FindTokenPolicy(kv));
    } else {
      EXPECT_ERROR(FindTokenPolicy(kv), ErrorCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace varve
