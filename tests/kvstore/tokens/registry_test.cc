#include <gtest/gtest.h>

#include "kvstore/tokens/token_policy.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

KvPolicy Policy(std::string tokens, double keep) {
  KvPolicy policy;
  policy.tokens = std::move(tokens);
  policy.keep = keep;
  return policy;
}

TEST(TokenPolicyRegistry, AllTokensStayUnlessAPolicyIsNamed) {
  const auto found = FindTokenPolicy(KvPolicy{});
  ASSERT_OK(found);
  EXPECT_EQ(*found, nullptr);
}

TEST(TokenPolicyRegistry, RefusesAnUnknownNameWithTheNamesThereAre) {
  const auto found = FindTokenPolicy(Policy("snapvk", 0.5));
  ASSERT_ERROR(found, ErrorCode::kInvalidArgument);
  EXPECT_NE(found.error().message.find("'snapvk'"), std::string::npos);
  EXPECT_NE(found.error().message.find("there are all"), std::string::npos);
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    EXPECT_NE(found.error().message.find(policy->name()), std::string::npos) << policy->name();
  }
  EXPECT_NE(found.error().message.find("clusterkv"), std::string::npos);
}

TEST(TokenPolicyRegistry, ClusterKvPrunesNothingAndSelectsPages) {
  for (const double keep : {0.01, 1.0}) {
    const auto found = FindTokenPolicy(Policy("clusterkv", keep));
    ASSERT_OK(found);
    EXPECT_EQ(*found, nullptr);
  }
  EXPECT_TRUE(SelectsPages(Policy("clusterkv", 0.5)));
  EXPECT_FALSE(SelectsPages(KvPolicy{}));
  EXPECT_FALSE(SelectsPages(Policy("snapkv", 0.5)));
}

TEST(TokenPolicyRegistry, ClusterKvReadsMoreThanNothingAndNoMoreThanAll) {
  for (const double keep : {0.0, -0.5, 1.5}) {
    const auto found = FindTokenPolicy(Policy("clusterkv", keep));
    ASSERT_ERROR(found, ErrorCode::kInvalidArgument);
    EXPECT_NE(found.error().message.find("above 0 and at most 1"), std::string::npos);
  }
}

TEST(TokenPolicyRegistry, RefusesAShareOfAllTokens) {
  const auto found = FindTokenPolicy(Policy("all", 0.5));
  ASSERT_ERROR(found, ErrorCode::kInvalidArgument);
  EXPECT_NE(found.error().message.find("keep is 0.5"), std::string::npos);
}

}  // namespace
}  // namespace varve
