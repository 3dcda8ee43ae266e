#include "ops/cli/eval/rate_eval.h"

#include <map>

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

#include "ops/cli/eval/normal.h"

namespace varve::cli {
namespace {

class RateOfGaussian : public testing::Test {
 protected:
  void SetUp() override {
    EvalOptions options;
    options.codecs = {"f32", "int4", "int3", "int2", "rot4", "rot3", "rot2", "klt3"};
    const auto candidates = MakeCandidates(options, GaussianPage());
    ASSERT_OK(candidates);
    const RecordedKv kv = GaussianKv(1, CodecsOf(*candidates));
    LabProgress progress(stderr);
    for (const EvalRow& row : MeasureRate(kv, *candidates, &progress)) {
      rows_[row.codec] = row;
    }
    for (const EvalRow& row : ReferenceLines()) {
      references_[{row.codec, row.bpe}] = row.Find("mse").value();
    }
  }

  double Mse(const std::string& codec) const { return rows_.at(codec).Find("mse").value(); }

  std::map<std::string, EvalRow> rows_;
  std::map<std::pair<std::string, double>, double> references_;
};

TEST_F(RateOfGaussian, ReferencesAreTheKnownFigures) {
  EXPECT_DOUBLE_EQ(references_.at({"shannon", 3}), 1.0 / 64);
  EXPECT_DOUBLE_EQ(references_.at({"lloyd-max", 2.125}), 0.1175);
  EXPECT_NEAR(references_.at({"min-max", 2.25}), 0.2508, 0.002);
  EXPECT_NEAR(references_.at({"min-max", 3.25}), 0.0457, 0.0004);
  EXPECT_NEAR(references_.at({"min-max", 4.25}), 0.0100, 0.0001);
}

TEST_F(RateOfGaussian, TokenwiseIntegersLieOnTheMinMaxLine) {
  for (const auto& [codec, bits] : {std::pair{"int4", 4.25}, {"int3", 3.25}, {"int2", 2.25}}) {
    EXPECT_EQ(rows_.at(codec).bpe, bits);
    EXPECT_NEAR(Mse(codec) / references_.at({"min-max", bits}), 1, 0.02) << codec;
  }
}

TEST_F(RateOfGaussian, RotatedLevelsLieOnTheLloydMaxLine) {
  for (const auto& [codec, bits] : {std::pair{"rot4", 4.125}, {"rot3", 3.125}, {"rot2", 2.125}}) {
    EXPECT_EQ(rows_.at(codec).bpe, bits);
    EXPECT_NEAR(Mse(codec) / references_.at({"lloyd-max", bits}), 1, 0.05) << codec;
  }
}

// There is nothing to learn about independent values: tables of another draw do as well as levels
// that were known beforehand, and no better, or they would know what is measured.
TEST_F(RateOfGaussian, TablesOfAnotherDrawLieOnTheLloydMaxLineToo) {
  EXPECT_EQ(rows_.at("klt3").tables, kTablesMade);
  EXPECT_EQ(rows_.at("rot3").tables, "");
  EXPECT_NEAR(
      rows_.at("klt3").Find("v_mse").value() / references_.at({"lloyd-max", 3.125}), 1, 0.1);
}

TEST_F(RateOfGaussian, NothingLostIsNoError) {
  EXPECT_EQ(Mse("f32"), 0);
  EXPECT_EQ(rows_.at("f32").Find("gap_db"), 0);
}

TEST(RateOfKeysAndValues, CountsEachLayerAndHeadAlikeWhateverItsSize) {
  // One layer a thousand times as large as the other: the error of neither may drown the other's.
  RecordedKv kv = GaussianKv(2, {});
  for (size_t i = 0; i < kv.pages.size(); i += 2) {
    kv.pages[i].layer = 1;
    for (float& x : kv.pages[i].k) {
      x *= 1000;
    }
    // Of the large layer, half of the values are zero: another relative error.
    for (size_t j = 0; j < kv.pages[i].k.size(); ++j) {
      kv.pages[i].k[j] = j % 128 < 64 ? kv.pages[i].k[j] : 0;
    }
  }
  EvalOptions options;
  options.codecs = {"int2"};
  LabProgress progress(stderr);
  const auto rows = MeasureRate(kv, MakeCandidates(options, kv.page).value(), &progress);
  const auto rate_of_layer = [&](int32_t layer) {
    RecordedKv one = kv;
    one.pages.clear();
    for (const RecordedPage& page : kv.pages) {
      if (page.layer == layer) {
        one.pages.push_back(page);
      }
    }
    return MeasureRate(one, MakeCandidates(options, kv.page).value(), &progress)[0]
        .Find("k_mse")
        .value();
  };
  EXPECT_GT(std::abs(rate_of_layer(0) - rate_of_layer(1)), 0.01);
  EXPECT_NEAR(rows[0].Find("k_mse").value(), (rate_of_layer(0) + rate_of_layer(1)) / 2, 1e-9);
}

TEST(RateOfKeysAndValues, CountsTheBitsThatTheTablesOfEachLayerTake) {
  const Codec& lorc = *FindCodec("lorc").value();
  RecordedKv kv = GaussianKv(3, {});
  for (size_t i = 0; i < kv.pages.size(); i += 2) {
    kv.pages[i].layer = 1;
  }
  // Keys and values of few dimensions in one layer, of all in the other.
  constexpr size_t kNumTokens = 512;
  const auto dim = static_cast<size_t>(kv.page.head_dim);
  for (const int32_t layer : {0, 1}) {
    CalibrationSample sample;
    sample.num_kv_heads = 1;
    sample.head_dim = kv.page.head_dim;
    sample.num_tokens = kNumTokens;
    sample.k.resize(kNumTokens * dim);
    Rng rng(4);
    FillNormal(&rng, sample.k);
    for (size_t i = 0; layer == 0 && i < sample.k.size(); ++i) {
      sample.k[i] = i % dim < 16 ? sample.k[i] : 0;
    }
    sample.v = sample.k;
    sample.q_moment.resize(dim * dim);
    kv.tables.Add(lorc.id(), layer, lorc.Calibrate(sample));
  }
  EvalOptions options;
  options.codecs = {"lorc"};
  LabProgress progress(stderr);
  const auto candidates = MakeCandidates(options, kv.page).value();
  const EvalRow row = MeasureRate(kv, candidates, &progress)[0];
  const double few = lorc.BitsPerValue(kv.page, kv.tables.Find(lorc.id(), 0));
  const double all = lorc.BitsPerValue(kv.page, kv.tables.Find(lorc.id(), 1));
  EXPECT_LT(few, 0.5 * all);
  EXPECT_NEAR(row.bpe, (few + all) / 2, 1e-9);
  EXPECT_LT(row.bpe, candidates[0].bpe);
}

}  // namespace
}  // namespace varve::cli
