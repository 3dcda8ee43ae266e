#include "ops/cli/eval/planted_eval.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

std::vector<EvalRow> Measure(double outliers,
                             const std::vector<std::string>& codecs,
                             const std::vector<int64_t>& lengths,
                             uint64_t seed = 1) {
  EvalOptions options;
  options.codecs = codecs;
  options.planted_tokens = lengths;
  options.seed = seed;
  options.threads = 2;
  LabProgress progress(stderr);
  const auto candidates = MakeCandidates(options, PlantedPage());
  EXPECT_OK(candidates);
  const auto rows = MeasurePlanted(options, outliers, *candidates, &progress);
  EXPECT_OK(rows);
  return *rows;
}

double Figure(const EvalRow& row, std::string_view name) {
  return row.Find(name).value();
}

TEST(Planted, ExactKeysFindEveryNeedleAndLoseNothing) {
  const auto rows = Measure(20, {"f32"}, {32'768, 65'536});
  ASSERT_EQ(rows.size(), 2U);
  for (const EvalRow& row : rows) {
    EXPECT_EQ(Figure(row, "output_error"), 0);
    EXPECT_EQ(Figure(row, "mass_recall"), 1);
    EXPECT_EQ(Figure(row, "needle_argmax"), 1);
    EXPECT_EQ(Figure(row, "score_error"), 0);
  }
  EXPECT_EQ(Figure(rows[0], "tokens"), 32'768);
  EXPECT_NEAR(Figure(rows[1], "ln_n"), std::log(65'536), 1e-9);
}

TEST(Planted, FewerBitsLoseMore) {
  const auto rows = Measure(1, {"int8", "int4", "int2"}, {32'768});
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_LT(Figure(rows[0], "output_error"), 0.03);
  EXPECT_EQ(Figure(rows[0], "needle_argmax"), 1);
  for (size_t i = 1; i < rows.size(); ++i) {
    EXPECT_GT(Figure(rows[i], "output_error"), 3 * Figure(rows[i - 1], "output_error"));
    EXPECT_GT(Figure(rows[i], "score_error"), 3 * Figure(rows[i - 1], "score_error"));
  }
}

TEST(Planted, OutlierChannelsBlindTokenwiseIntegersAndHarmRotatedOnesLess) {
  const auto rows = Measure(20, {"int4", "rot4"}, {32'768});
  EXPECT_LT(Figure(rows[0], "needle_argmax"), 0.5);
  EXPECT_LT(Figure(rows[0], "mass_recall"), 0.7);
  EXPECT_GT(Figure(rows[1], "needle_argmax"), Figure(rows[0], "needle_argmax"));
  EXPECT_LT(Figure(rows[1], "output_error"), Figure(rows[0], "output_error"));
}

// A length is measured on its own tokens only: another one beside it may add noise, not change it.
TEST(Planted, LengthsComeInOrderWhateverOrderWasAskedFor) {
  const auto rows = Measure(1, {"int8"}, {65'536, 32'768, 65'536});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(Figure(rows[0], "tokens"), 32'768);
  EXPECT_EQ(Figure(rows[1], "tokens"), 65'536);
}

TEST(Planted, CalibratedCodecsAreMeasuredWithTablesOfAnotherDraw) {
  const auto rows = Measure(20, {"rot4", "klt4", "nuq4"}, {32'768});
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].tables, "");
  // Keys are coded in the metric of the queries, to which outlier channels are like any other.
  EXPECT_EQ(rows[1].tables, kTablesMade);
  EXPECT_EQ(Figure(rows[1], "needle_argmax"), 1);
  EXPECT_LT(Figure(rows[1], "score_error"), 0.6 * Figure(rows[0], "score_error"));
  // Every channel of the keys has a scale of its own.
  EXPECT_EQ(rows[2].tables, kTablesMade);
  EXPECT_LT(Figure(rows[2], "score_error"), Figure(rows[0], "score_error"));
}

// 257 pages and 300 are no whole chunks: the shorter length ends inside one.
TEST(Planted, LengthsMayEndAnywhereBetweenPages) {
  const auto rows = Measure(1, {"f32", "int8"}, {32'896, 38'400});
  ASSERT_EQ(rows.size(), 4U);
  for (size_t i = 0; i < rows.size(); i += 2) {
    EXPECT_EQ(Figure(rows[i], "output_error"), 0);
    EXPECT_EQ(Figure(rows[i], "mass_recall"), 1);
    EXPECT_EQ(Figure(rows[i], "needle_argmax"), 1);
    EXPECT_GT(Figure(rows[i + 1], "output_error"), 0);
    EXPECT_LT(Figure(rows[i + 1], "output_error"), 0.03);
  }
}

TEST(Planted, SameSeedSameFigures) {
  const auto a = Measure(1, {"int4"}, {32'768}, 5);
  const auto b = Measure(1, {"int4"}, {32'768}, 5);
  const auto c = Measure(1, {"int4"}, {32'768}, 6);
  EXPECT_EQ(Figure(a[0], "output_error"), Figure(b[0], "output_error"));
  EXPECT_NE(Figure(a[0], "output_error"), Figure(c[0], "output_error"));
}

TEST(Planted, RefusesLengthsThatArePartsOfPagesTooShortOrTooLong) {
  LabProgress progress(stderr);
  for (const int64_t length : {int64_t{32'769}, int64_t{128}, kMostPlantedTokens + 128}) {
    EvalOptions options;
    options.planted_tokens = {length};
    options.threads = 1;
    const auto rows = MeasurePlanted(options, 1, {}, &progress);
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(rows.error().message, HasSubstr("--planted-tokens " + std::to_string(length)));
  }
}

}  // namespace
}  // namespace varve::cli
