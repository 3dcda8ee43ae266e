#include "ops/cli/eval/lab_plan.h"

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

EvalOptions Options(std::vector<std::string> parts) {
  EvalOptions options;
  options.model_dir = std::string(VARVE_SOURCE_DIR) + "/ops/models/mini";
  options.parts = std::move(parts);
  options.tokens = 600;
  options.document_tokens = {2048};
  options.questions = 20;
  return options;
}

TEST(LabPlan, HasWhatThePartsNeedAndNoMore) {
  const auto planted = MakeLabPlan(Options({"planted"}));
  ASSERT_OK(planted);
  EXPECT_FALSE(planted->of_planted.empty());
  EXPECT_TRUE(planted->sequences.empty());
  EXPECT_TRUE(planted->documents.empty());
  EXPECT_TRUE(planted->candidates.empty());

  const auto both = MakeLabPlan(Options({"divergence", "retrieval"}));
  ASSERT_OK(both);
  ASSERT_EQ(both->sequences.size(), 2U);
  EXPECT_EQ(both->sequences[0].size(), 600U);
  // 12 facts of each task in a document.
  ASSERT_EQ(both->documents.size(), 2U);
  EXPECT_EQ(both->documents[0].questions.size(), 4U * 12U);
  EXPECT_FALSE(both->candidates.empty());
  EXPECT_TRUE(both->of_planted.empty());
  EXPECT_TRUE(both->of_tradeoff.empty());
}

TEST(LabPlan, RefusesWhatOneOfSeveralPartsCannotDo) {
  const auto refuse = [](auto&& change) {
    EvalOptions options = Options({"divergence", "retrieval", "planted", "tradeoff", "rate"});
    change(&options);
    EXPECT_ERROR(MakeLabPlan(options), ErrorCode::kInvalidArgument);
  };
  refuse([](EvalOptions* o) { o->parts.emplace_back("taste"); });
  refuse([](EvalOptions* o) { o->codecs = {"int5"}; });
  refuse([](EvalOptions* o) { o->policies = {"forget"}; });
  refuse([](EvalOptions* o) { o->outliers = {1, 0}; });
  refuse([](EvalOptions* o) { o->tokens = 256; });
  refuse([](EvalOptions* o) { o->sequences = 100'000; });
  refuse([](EvalOptions* o) { o->document_tokens = {2048, 100}; });
  refuse([](EvalOptions* o) { o->planted_tokens = {1000}; });
  refuse([](EvalOptions* o) { o->budgets = {0}; });
}

TEST(LabPlan, RefusesTablesThatAreNotThere) {
  EvalOptions options = Options({"planted"});
  options.tables_file = options.model_dir + "/none";
  EXPECT_ERROR(MakeLabPlan(options), ErrorCode::kNotFound);
}

// Other parts would measure exact attention under its name.
TEST(LabPlan, ChoicesOfPagesAreMeasuredByRetrievalOnly) {
  EvalOptions options = Options({"retrieval"});
  options.policies = {"full", "clusterkv:0.25"};
  const auto plan = MakeLabPlan(options);
  ASSERT_OK(plan);
  EXPECT_EQ(plan->candidates.back().Kv().tokens, "clusterkv");
  EXPECT_EQ(plan->candidates.back().Kv().keep, 0.25);
  for (const char* policy : {"clusterkv:0.25", "select:0.25"}) {
    options.policies = {policy};
    for (const char* part : {"divergence", "planted", "rate", "tradeoff"}) {
      options.parts = {"retrieval", part};
      const auto refused = MakeLabPlan(options);
      ASSERT_ERROR(refused, ErrorCode::kInvalidArgument);
      EXPECT_NE(refused.error().message.find(part), std::string::npos);
      EXPECT_NE(refused.error().message.find("--parts retrieval"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace varve::cli
