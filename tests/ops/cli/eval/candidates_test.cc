#include "ops/cli/eval/candidates.h"

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

constexpr RunShape kPage{.num_kv_heads = 2, .head_dim = 64, .token_capacity = 128};

const Codec* CodecOf(std::string_view name) {
  return FindCodec(name).value();
}

TEST(Candidates, AreAllCodecsThatLoseSomethingAndAreSoonCalibrated) {
  const auto candidates = MakeCandidates({}, kPage);
  ASSERT_OK(candidates);
  ASSERT_EQ(candidates->size(),
            static_cast<size_t>(
                std::count_if(AllCodecs().begin(), AllCodecs().end(), [](const Codec* codec) {
                  return codec->name() != kExactCodec && codec->name() != "rvq8-2k";
                })));
  for (const Candidate& candidate : *candidates) {
    EXPECT_NE(candidate.codec->name(), kExactCodec);
    EXPECT_NE(candidate.codec->name(), "rvq8-2k");
    EXPECT_EQ(candidate.policy, PolicyChoice());
    EXPECT_EQ(candidate.bpe, candidate.codec->BitsPerValue(kPage));
    EXPECT_EQ(candidate.Kv().codec, candidate.codec->name());
    EXPECT_EQ(candidate.Kv().exact_codec, "f32");
  }
}

TEST(Candidates, CodecsAreListedOnceInTheOrderOfTheCandidates) {
  EvalOptions options;
  options.codecs = {"rot2", "klt2"};
  options.policies = {"full", "snapkv:0.5"};
  const auto candidates = MakeCandidates(options, kPage);
  ASSERT_OK(candidates);
  ASSERT_EQ(candidates->size(), 4U);
  EXPECT_EQ(CodecsOf(*candidates), (std::vector{CodecOf("rot2"), CodecOf("klt2")}));
}

TEST(Candidates, RowsSayWhereTablesAreFromAndWhichBudgetHadToBeFitted) {
  Candidate candidate{.codec = CodecOf("klt2"), .policy = {}, .bpe = 2.25, .tables = "made"};
  EXPECT_EQ(candidate.Row("quality", "mini", 1).tables, "made");
  EXPECT_EQ(candidate.Row("quality", "mini", 1).Find(kBudgetFigure), std::nullopt);
  candidate.budget = 1.5;
  EXPECT_EQ(candidate.Row("tradeoff", "mini", 1).Find(kBudgetFigure), 1.5);
}

TEST(Candidates, BitsLeaveOutWhatNeedsMore) {
  EvalOptions options;
  options.max_bits = 4.25;
  const auto candidates = MakeCandidates(options, kPage);
  ASSERT_OK(candidates);
  bool has_rot4 = false;
  for (const Candidate& candidate : *candidates) {
    EXPECT_LE(candidate.bpe, 4.25) << candidate.codec->name();
    has_rot4 |= candidate.codec->name() == "rot4";  // 4.25 to the bit
  }
  EXPECT_TRUE(has_rot4);
}

// All tokens, and eight centroids of 16 bits for each channel of 128 keys and values.
TEST(Candidates, ClusterKvCostsItsCentroids) {
  EvalOptions options;
  options.codecs = {"int8"};
  options.policies = {"clusterkv:0.1"};
  const auto candidates = MakeCandidates(options, {kPage.num_kv_heads, kPage.head_dim, 128});
  ASSERT_OK(candidates);
  EXPECT_NEAR(
      candidates->front().bpe,
      CodecOf("int8")->BitsPerValue({kPage.num_kv_heads, kPage.head_dim, 128}) + 8 * 16 / 256.0,
      1e-9);
  EXPECT_EQ(candidates->front().Kv().tokens, "clusterkv");
}

// All tokens, and beside them 2 bits and a scale for each key, and the mean of a page's keys.
TEST(Candidates, SelectCostsItsSketch) {
  EvalOptions options;
  options.codecs = {"int8"};
  options.policies = {"select:0.1"};
  const RunShape page{kPage.num_kv_heads, 64, 128};
  const auto candidates = MakeCandidates(options, page);
  ASSERT_OK(candidates);
  EXPECT_NEAR(candidates->front().bpe,
              CodecOf("int8")->BitsPerValue(page) + (2 + 16 / 64.0 + 16 / 128.0) / 2,
              0.01);
  EXPECT_EQ(candidates->front().Kv().tokens, "all");
  EXPECT_EQ(candidates->front().Selective(5000)->budget_tokens, 500);
  EXPECT_TRUE(candidates->front().ChoosesPages());
}

TEST(Candidates, RefuseByName) {
  EvalOptions options;
  options.codecs = {"int5"};
  EXPECT_THAT(MakeCandidates(options, kPage).error().message, HasSubstr("no codec 'int5'"));
  options.codecs = {"int8"};
  options.max_bits = 0.5;
  EXPECT_THAT(MakeCandidates(options, kPage).error().message, HasSubstr("--bits 0.5"));
  options.max_bits = 0;
  options.policies = {"no-such-policy:0.5"};
  EXPECT_THAT(MakeCandidates(options, kPage).error().message,
              HasSubstr("no token policy 'no-such-policy'; there are: full"));
}

TEST(PolicyChoice, FullKeepsAll) {
  ASSERT_OK(ParsePolicyChoice("full"));
  EXPECT_EQ(ParsePolicyChoice("full")->Label(), "full");
  EXPECT_EQ(ParsePolicyChoice("full:1")->keep, 1);
  for (const char* label :
       {"full:0.5", "full:0", "full:2", "full:x", "full:", "full:1x", "full:nan"}) {
    const auto policy = ParsePolicyChoice(label);
    ASSERT_FALSE(policy) << label;
    EXPECT_THAT(policy.error().message, HasSubstr(label));
  }
}

TEST(EqualBytes, EveryCodecWithItsShareOfTokensTakesTheBudget) {
  const std::vector<const Codec*> codecs = {
      CodecOf("bf16"), CodecOf("int8"), CodecOf("rot4"), CodecOf("rot2")};
  const double budget = 3;
  const auto candidates = EqualByteCandidates(codecs, "snapkv", budget, kPage);
  ASSERT_EQ(candidates.size(), 4U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_LE(candidates[i].bpe, budget) << codecs[i]->name();
    EXPECT_NEAR(candidates[i].bpe, budget, 16.25 / 128) << codecs[i]->name();  // a token's bits
    EXPECT_LT(candidates[i].policy.keep, 1);
    EXPECT_EQ(candidates[i].policy.name, "snapkv");
  }
  // 16 bits and an index of 32 bits for 128 values, of whole tokens.
  EXPECT_NEAR(candidates[0].policy.keep, std::floor(128 * 3 / 16.25) / 128, 1e-9);
  // What fits whole is not pruned, and costs what it costs.
  EXPECT_EQ(candidates[3].policy.keep, 1);
  EXPECT_EQ(candidates[3].bpe, codecs[3]->BitsPerValue(kPage));
}

TEST(Candidates, OfPoliciesWithSeveralCodecsCountThemAll) {
  EvalOptions options;
  options.codecs = {"int8"};
  options.policies = {"mikv:0.25", "mikv:1", "qaq:0.5", "qaq:0.01"};
  const auto candidates = MakeCandidates(options, kPage);
  ASSERT_OK(candidates);
  ASSERT_EQ(candidates->size(), 4U);
  // 32 tokens in 8.25 bits, 96 in 2.25, and an index of 32 bits for 128 values.
  EXPECT_NEAR(candidates->at(0).bpe, 0.25 * 8.25 + 0.75 * 2.25 + 0.25, 1e-9);
  EXPECT_EQ(candidates->at(1).bpe, 8.25);
  EXPECT_NEAR(candidates->at(2).bpe, 0.5 * 8.25, 1e-3);
  EXPECT_EQ(candidates->at(3).bpe, 2.25);  // rot2 for all is the least there is
  EXPECT_EQ(candidates->at(0).Kv().tokens, "mikv");
  EXPECT_EQ(candidates->at(0).Kv().keep, 0.25);
}

TEST(Candidates, OfPoliciesThatKeepUnequallyManyTokensCountTheMeanOverTheLayers) {
  EvalOptions options;
  options.codecs = {"int8"};
  options.policies = {"streaming:0.5", "l2norm:0.5", "kvcrush:0.5"};
  const auto candidates = MakeCandidates(options, kPage, 4);
  ASSERT_OK(candidates);
  const double index = 32.0 / 128;
  EXPECT_NEAR(candidates->at(0).bpe, 0.5 * (8.25 + index), 1e-9);
  // The first two layers keep all tokens and need no indices.
  EXPECT_NEAR(candidates->at(1).bpe, (2 * 8.25 + 2 * 0.5 * (8.25 + index)) / 4, 1e-9);
  EXPECT_NEAR(candidates->at(2).bpe, 0.5 * (8.25 + 2 * index), 1e-9);  // weights, too
}

TEST(EqualBytes, PoliciesWithSeveralCodecsGetTheLargestShareThatFits) {
  const std::vector<const Codec*> codecs = {
      CodecOf("bf16"), CodecOf("int8"), CodecOf("rot4"), CodecOf("rot2")};
  for (const char* policy : {"mikv", "qaq"}) {
    const auto candidates = EqualByteCandidates(codecs, policy, 3.5, kPage);
    ASSERT_EQ(candidates.size(), 4U) << policy;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LE(candidates[i].bpe, 3.5);
      EXPECT_NEAR(candidates[i].bpe, 3.5, 16.0 / 128) << policy;  // one token more or less
    }
    EXPECT_EQ(candidates[3].policy.keep, 1);
  }
  // Two classes with indices never fit what the coarse one takes alone.
  const auto none = EqualByteCandidates(codecs, "mikv", 2.25, kPage);
  ASSERT_EQ(none.size(), 1U);
  EXPECT_EQ(none[0].codec->name(), "rot2");
}

}  // namespace
}  // namespace varve::cli
