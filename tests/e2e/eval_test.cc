// `varve eval`: its table orders codecs as their errors do, and bad input is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using testing::HasSubstr;

class EvalTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_OK(WriteFileAtomically(text_, MakeFactDocument(61, 120).text)); }

  RunResult Eval(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"eval", "--model", TestModelDir(), "--threads", "2"});
    return RunVarve(arguments, {.timeout_s = 300});
  }

  TempDir files_;
  std::string text_ = files_.File("text");
  std::string json_ = files_.File("rows.json");
};

TEST_F(EvalTest, RanksCodecsByWhatTheyLose) {
  const RunResult result = Eval(
      {"--text", text_, "--tokens", "600", "--codecs", "f32,int8,rot4,rot2,int2", "--json", json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("KL MEAN"));
  const auto bytes = ReadFile(json_);
  ASSERT_OK(bytes);
  const nlohmann::json rows = nlohmann::json::parse(*bytes);
  ASSERT_EQ(rows.size(), 5U);
  for (const nlohmann::json& row : rows) {
    // Two sequences, the first 256 positions of which are not scored.
    EXPECT_EQ(row.at("positions"), 2 * (600 - 256));
    EXPECT_EQ(row.at("policy"), "full");
    EXPECT_GE(row.at("kl_p999"), row.at("kl_mean"));
  }
  EXPECT_EQ(rows[0].at("codec"), "f32");
  EXPECT_LT(rows[0].at("kl_mean"), 1e-9);
  EXPECT_EQ(rows[0].at("top1"), 1.0);
  EXPECT_EQ(rows[1].at("bpe"), 8.25);
  const auto kl = [&](size_t row) { return rows[row].at("kl_mean").get<double>(); };
  EXPECT_GT(kl(1), 1e-9);
  EXPECT_LT(kl(1), kl(2));  // int8, rot4
  EXPECT_LT(kl(2), kl(3));  // rot4, rot2
  EXPECT_LT(kl(3), kl(4));  // rot2, int2
}

TEST_F(EvalTest, Int8WeightsAreComparedWithTheStoredOnes) {
  const RunResult result = Eval({"--text",
                                 text_,
                                 "--tokens",
                                 "400",
                                 "--codecs",
                                 "f32",
                                 "--weights",
                                 "int8",
                                 "--json",
                                 json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const auto bytes = ReadFile(json_);
  ASSERT_OK(bytes);
  const nlohmann::json rows = nlohmann::json::parse(*bytes);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].at("codec"), "weights int8");
  EXPECT_EQ(rows[0].at("positions"), 2 * (400 - 256));
  EXPECT_GT(rows[0].at("kl_mean"), 1e-7);
  EXPECT_LT(rows[0].at("kl_mean"), 0.01);
  EXPECT_EQ(rows[1].at("codec"), "f32");
  EXPECT_LT(rows[1].at("kl_mean"), 1e-9);
}

TEST_F(EvalTest, SaysWhatIsWrong) {
  const RunResult codec = Eval({"--text", text_, "--tokens", "300", "--codecs", "int5"});
  EXPECT_EQ(codec.exit_code, cli::kExitUsage);
  EXPECT_THAT(codec.err, HasSubstr("there is no codec 'int5'; there are: f32"));
  const RunResult weights = Eval({"--text", text_, "--weights", "int4"});
  EXPECT_EQ(weights.exit_code, cli::kExitUsage);
  EXPECT_THAT(weights.err, HasSubstr("--weights: int4 not in {auto,int8}"));
  const RunResult too_short = Eval({"--text", text_, "--tokens", "400000"});
  EXPECT_EQ(too_short.exit_code, cli::kExitUsage);
  EXPECT_THAT(too_short.err, HasSubstr("2 sequences of 400000 need"));
  const RunResult unscored = Eval({"--text", text_, "--tokens", "256"});
  EXPECT_EQ(unscored.exit_code, cli::kExitUsage);
  EXPECT_THAT(unscored.err, HasSubstr("more than 256 tokens"));
  const RunResult no_file = Eval({"--text", files_.File("none")});
  EXPECT_EQ(no_file.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_file.err, HasSubstr("none"));
  EXPECT_EQ(RunVarve({"eval", "--model", TestModelDir()}).exit_code, cli::kExitUsage);
}

}  // namespace
}  // namespace varve
