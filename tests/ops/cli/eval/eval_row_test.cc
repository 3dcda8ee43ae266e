#include "ops/cli/eval/eval_row.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

EvalRow RowOf(const std::string& part, const std::string& codec) {
  return {.part = part,
          .model = "mini",
          .outliers = 20,
          .codec = codec,
          .policy = "full",
          .bpe = 2.25,
          .figures = {}};
}

TEST(JoinRows, PutsTheFiguresAboutOneThingIntoOneRow) {
  EvalRow kl = RowOf("quality", "rot2");
  kl.Add("kl_mean", 0.05);
  EvalRow other = RowOf("quality", "int2");
  other.Add("kl_mean", 1.5);
  EvalRow retrieval = RowOf("quality", "rot2");
  retrieval.Add("retrieval_exact", 0.75);
  const auto rows = JoinRows({kl, other, retrieval});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].Find("kl_mean"), 0.05);
  EXPECT_EQ(rows[0].Find("retrieval_exact"), 0.75);
  EXPECT_EQ(rows[1].Find("retrieval_exact"), std::nullopt);
}

TEST(JoinRows, KeepsWhatDiffersInPartModelOutliersOrPolicyApart) {
  std::vector<EvalRow> rows(5, RowOf("quality", "rot2"));
  rows[1].part = "rate";
  rows[2].model = "other";
  rows[3].outliers = 1;
  rows[4].policy = "other";
  EXPECT_EQ(JoinRows(rows).size(), 5U);
}

TEST(JoinRows, KeepsBudgetsApartAndNamesEachOnce) {
  EvalRow kl = RowOf("tradeoff", "rot2");
  kl.Add(std::string(kBudgetFigure), 1);
  kl.Add("kl_mean", 0.5);
  EvalRow retrieval = RowOf("tradeoff", "rot2");
  retrieval.Add(std::string(kBudgetFigure), 1);
  retrieval.Add("retrieval_exact", 0.75);
  EvalRow other = retrieval;
  other.figures[0].value = 2;
  const auto rows = JoinRows({kl, retrieval, other});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].figures.size(), 3U);
  EXPECT_EQ(rows[0].Find("retrieval_exact"), 0.75);
  EXPECT_EQ(rows[1].Find(kBudgetFigure), 2);
}

TEST(EvalRows, TablesHaveAColumnWhereACodecNeedsSome) {
  EvalRow plain = RowOf("quality", "rot2");
  plain.Add("kl_mean", 0.5);
  EvalRow calibrated = RowOf("quality", "klt2");
  calibrated.tables = kTablesMade;
  calibrated.Add("kl_mean", 0.25);
  EXPECT_EQ(FormatMarkdown({plain, calibrated}),
            "## quality\n\n"
            "| model | outliers | codec | policy | bpe | tables | kl_mean |\n"
            "|---|---:|---|---|---:|---|---:|\n"
            "| mini | 20 | rot2 | full | 2.250 | - | 0.500 |\n"
            "| mini | 20 | klt2 | full | 2.250 | made | 0.250 |\n");
  const nlohmann::json list = nlohmann::json::parse(FormatJson({plain, calibrated}));
  EXPECT_FALSE(list[0].contains("tables"));
  EXPECT_EQ(list[1].at("tables"), "made");
}

TEST(EvalRows, JsonHasEveryFigureAndTablesNoDetails) {
  EvalRow row = RowOf("quality", "rot2");
  row.Add("kl_mean", 0.0625);
  row.AddDetail("positions", 1536);
  const nlohmann::json list = nlohmann::json::parse(FormatJson({row}));
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0].at("part"), "quality");
  EXPECT_EQ(list[0].at("model"), "mini");
  EXPECT_EQ(list[0].at("outliers"), 20);
  EXPECT_EQ(list[0].at("codec"), "rot2");
  EXPECT_EQ(list[0].at("policy"), "full");
  EXPECT_EQ(list[0].at("bpe"), 2.25);
  EXPECT_EQ(list[0].at("kl_mean"), 0.0625);
  EXPECT_EQ(list[0].at("positions"), 1536);
  for (const std::string& text : {FormatTables({row}), FormatMarkdown({row})}) {
    EXPECT_THAT(text, HasSubstr("kl_mean"));
    EXPECT_THAT(text, HasSubstr("0.0625"));
    EXPECT_THAT(text, Not(HasSubstr("positions")));
  }
}

TEST(EvalRows, EachPartHasItsTableAndGapsAreDashes) {
  EvalRow with = RowOf("quality", "rot2");
  with.Add("kl_mean", 0.5);
  const EvalRow without = RowOf("quality", "int2");
  EvalRow rate = RowOf("rate", "rot2");
  rate.Add("mse", 0.1175);
  const std::string text = FormatMarkdown({with, without, rate});
  EXPECT_EQ(text,
            "## quality\n\n"
            "| model | outliers | codec | policy | bpe | kl_mean |\n"
            "|---|---:|---|---|---:|---:|\n"
            "| mini | 20 | rot2 | full | 2.250 | 0.500 |\n"
            "| mini | 20 | int2 | full | 2.250 | - |\n\n"
            "## rate\n\n"
            "| model | outliers | codec | policy | bpe | mse |\n"
            "|---|---:|---|---|---:|---:|\n"
            "| mini | 20 | rot2 | full | 2.250 | 0.117 |\n");
}

}  // namespace
}  // namespace varve::cli
