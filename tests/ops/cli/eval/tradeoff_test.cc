#include "ops/cli/eval/tradeoff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr RunShape kPage{.num_kv_heads = 2, .head_dim = 64, .token_capacity = 128};

TEST(Tradeoff, EveryBudgetIsFittedByFourCodecsUnderThePapersPolicy) {
  EvalOptions options;
  options.budgets = {2.25, 0.5};
  const auto candidates = TradeoffCandidates(options, kPage);
  ASSERT_OK(candidates);
  ASSERT_EQ(candidates->size(), 8U);
  const char* const codecs[] = {"bf16", "int8", "rot4", "rot2"};
  for (size_t i = 0; i < candidates->size(); ++i) {
    const Candidate& candidate = (*candidates)[i];
    EXPECT_EQ(candidate.codec->name(), codecs[i % 4]);
    EXPECT_EQ(candidate.policy.name, "snapkv");
    EXPECT_EQ(candidate.budget, i < 4 ? 2.25 : 0.5);
    EXPECT_LE(candidate.bpe, candidate.budget);
    EXPECT_NEAR(candidate.bpe, candidate.budget, 16.25 / 128);  // the bits of one token
    EXPECT_EQ(candidate.policy.keep < 1, i != 3);               // rot2 fits with all tokens
  }
}

TEST(Tradeoff, PoliciesThatPruneAreTakenInTheirTurn) {
  EvalOptions options;
  options.budgets = {1};
  options.policies = {"full", "h2o:0.5", "streaming"};
  const auto candidates = TradeoffCandidates(options, kPage);
  ASSERT_OK(candidates);
  ASSERT_EQ(candidates->size(), 8U);
  EXPECT_EQ(candidates->at(0).policy.name, "h2o");
  EXPECT_EQ(candidates->at(7).policy.name, "streaming");
  options.policies = {"forget:0.5"};
  EXPECT_FALSE(TradeoffCandidates(options, kPage));
  options.policies = {"full"};
  options.budgets = {0};
  const auto nothing = TradeoffCandidates(options, kPage);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(nothing.error().message, HasSubstr("--budgets 0"));
}

EvalRow RowOf(const std::string& codec, double budget, double found) {
  EvalRow row{.part = "tradeoff",
              .model = "mini",
              .outliers = 1,
              .codec = codec,
              .policy = "snapkv:0.1",
              .bpe = budget,
              .figures = {}};
  row.Add(std::string(kBudgetFigure), budget);
  row.Add("kl_mean", 1 - found);
  row.Add("retrieval_exact", found);
  row.Add("retrieval_low", found - 0.02);
  row.Add("retrieval_high", found + 0.02);
  return row;
}

std::vector<EvalRow> RowsOf(double budget, const std::vector<double>& found) {
  return {RowOf("bf16", budget, found[0]),
          RowOf("int8", budget, found[1]),
          RowOf("rot4", budget, found[2]),
          RowOf("rot2", budget, found[3])};
}

TEST(Tradeoff, ThePublishedShapeIsCalledSo) {
  EXPECT_THAT(DescribeTradeoff(RowsOf(1, {0.2, 0.4, 0.6, 0.3})),
              ElementsAre("tradeoff, mini x1, snapkv, 1 bits: found 1x16 20.0 %, 2x8 40.0 %, 4x4 "
                          "60.0 %, 8x2 30.0 %; most 4x4, least divergence 4x4. As published."));
}

TEST(Tradeoff, DifferencesAreNamedIfTheyAreBeyondTheIntervals) {
  const auto lines = DescribeTradeoff(RowsOf(1, {0.5, 0.4, 0.39, 0.6}));
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_THAT(lines[0], HasSubstr("most 8x2"));
  EXPECT_THAT(lines[0],
              HasSubstr("Unlike published: 2x8 finds less than 1x16; 8x2 finds more than 4x4: 2 "
                        "bits do not collapse."));
  EXPECT_THAT(lines[0], Not(HasSubstr("4x4 finds less")));
  EXPECT_THAT(DescribeTradeoff(RowsOf(1, {0.2, 0.4, 0.6, 0.59}))[0],
              HasSubstr("8x2 is no worse than 4x4"));
}

TEST(Tradeoff, GainsAreComparedOverBudgets) {
  std::vector<EvalRow> rows = RowsOf(2, {0.5, 0.5, 0.6, 0.1});
  const std::vector<EvalRow> tighter = RowsOf(1, {0.1, 0.3, 0.5, 0.1});
  rows.insert(rows.end(), tighter.begin(), tighter.end());
  const auto lines = DescribeTradeoff(rows);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_THAT(lines[2],
              HasSubstr("gain of 4x4 over 1x16: +40.0 points at 1 bits, +10.0 points at 2 bits. As "
                        "published"));
  for (EvalRow& row : rows) {
    const bool is_first = row.codec == "bf16" && row.bpe == 1;
    row.figures[2].value = is_first ? 0.45 : row.figures[2].value;
  }
  EXPECT_THAT(DescribeTradeoff(rows)[2], HasSubstr("Unlike published"));
}

TEST(Tradeoff, SaysNothingAboutWhatWasNotMeasured) {
  std::vector<EvalRow> rows = RowsOf(1, {0.2, 0.4, 0.6, 0.3});
  rows.pop_back();
  EXPECT_THAT(DescribeTradeoff(rows), IsEmpty());
  rows = RowsOf(1, {0.2, 0.4, 0.6, 0.3});
  for (EvalRow& row : rows) {
    row.part = "quality";
  }
  EXPECT_THAT(DescribeTradeoff(rows), IsEmpty());
}

}  // namespace
}  // namespace varve::cli
