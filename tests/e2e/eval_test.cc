// `varve eval`: its table orders codecs as their errors do, and bad input is named.
#include <map>

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
using testing::Not;

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
  const RunResult result = Eval({"--parts",
                                 "divergence",
                                 "--text",
                                 text_,
                                 "--tokens",
                                 "600",
                                 "--codecs",
                                 "f32,int8,rot4,rot2,int2",
                                 "--json",
                                 json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("kl_mean"));
  const auto bytes = ReadFile(json_);
  ASSERT_OK(bytes);
  const nlohmann::json rows = nlohmann::json::parse(*bytes);
  ASSERT_EQ(rows.size(), 5U);
  for (const nlohmann::json& row : rows) {
    // Two sequences, the first 256 positions of which are not scored.
    EXPECT_EQ(row.at("positions"), 2 * (600 - 256));
    EXPECT_EQ(row.at("policy"), "full");
    EXPECT_GE(row.at("kl_p999"), row.at("kl_mean"));
    EXPECT_EQ(row.at("static_positions"), 2 * (600 - 384));
    EXPECT_FALSE(row.contains("retrieval_exact"));
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
  const auto static_kl = [&](size_t row) { return rows[row].at("static_kl_mean").get<double>(); };
  EXPECT_LT(static_kl(0), 1e-9);
  EXPECT_LT(static_kl(1), static_kl(3));
}

// What the lab is for: a test that exact KV passes and two bits per token with outliers do not.
TEST_F(EvalTest, RetrievalTellsGoodCodecsFromBadOnesWhenThereAreOutliers) {
  const RunResult result = Eval({"--parts",
                                 "retrieval",
                                 "--document-tokens",
                                 "4096",
                                 "--questions",
                                 "20",
                                 "--outliers",
                                 "1,20",
                                 "--codecs",
                                 "int8,int2",
                                 "--json",
                                 json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(ReadFile(json_).value());
  ASSERT_EQ(rows.size(), 4U);
  for (const nlohmann::json& row : rows) {
    EXPECT_GE(row.at("questions"), 80);
    EXPECT_GE(row.at("retrieval_exact_kv"), 0.95) << row;
    EXPECT_LE(row.at("retrieval_low"), row.at("retrieval_exact"));
    EXPECT_GE(row.at("retrieval_high"), row.at("retrieval_exact"));
    for (const char* task : {"needle", "multikey", "lines", "tracking"}) {
      EXPECT_TRUE(row.contains(std::string("exact_") + task)) << task;
    }
  }
  EXPECT_EQ(rows[0].at("outliers"), 1);
  EXPECT_GE(rows[0].at("retrieval_relative"), 0.98);  // int8
  EXPECT_EQ(rows[3].at("codec"), "int2");
  EXPECT_EQ(rows[3].at("outliers"), 20);
  EXPECT_LT(rows[3].at("retrieval_relative"), 0.5);
}

TEST_F(EvalTest, QuickHasDivergenceAndRetrievalOfACodecInOneRow) {
  const RunResult result =
      Eval({"--quick", "--tokens", "300", "--questions", "1", "--codecs", "rot4", "--json", json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(ReadFile(json_).value());
  ASSERT_EQ(rows.size(), 1U);
  for (const char* name :
       {"codec", "policy", "bpe", "kl_mean", "kl_p999", "top1", "retrieval_exact"}) {
    EXPECT_TRUE(rows[0].contains(name)) << name;
  }
  EXPECT_FALSE(rows[0].contains("static_kl_mean"));
  EXPECT_THAT(result.err, HasSubstr("retrieval, mini x1"));  // the progress bar
  EXPECT_THAT(result.err, HasSubstr("within a budget of 15:00"));
}

TEST_F(EvalTest, CalibratedCodecsAreMeasuredInEveryPartAndOnCopiesWithOutliers) {
  const RunResult result = Eval({"--parts",
                                 "divergence,rate,planted",
                                 "--tokens",
                                 "400",
                                 "--planted-tokens",
                                 "32768",
                                 "--outliers",
                                 "1,20",
                                 "--codecs",
                                 "klt3,rot3,lorc",
                                 "--json",
                                 json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(ReadFile(json_).value());
  std::map<std::string, double> kl;
  int made = 0;
  for (const nlohmann::json& row : rows) {
    const std::string codec = row.at("codec");
    made += row.value("tables", "") == "made" ? 1 : 0;
    EXPECT_EQ(row.contains("tables"), codec == "klt3" || codec == "lorc");
    if (row.at("part") == "quality") {
      EXPECT_TRUE(codec != "lorc" || row.at("bpe") < 4.5)
          << "of its tables, not the most there are";
      kl[codec + (row.at("outliers") == 1 ? "" : " x20")] = row.at("kl_mean");
    }
  }
  EXPECT_EQ(made, 2 * (2 + 3 + 2));  // of two codecs; the Gaussian is measured once
  EXPECT_LT(kl.at("klt3"), kl.at("rot3"));
  EXPECT_LT(kl.at("klt3 x20"), kl.at("rot3 x20"));
  EXPECT_THAT(result.out, HasSubstr("held apart from what is measured"));
  EXPECT_THAT(result.err, HasSubstr("eval: took 0:"));
}

TEST_F(EvalTest, TradeoffComparesFourCodecsAtEachBudgetAndSaysWhatTheShapeIs) {
  const RunResult result = Eval({"--parts",
                                 "tradeoff",
                                 "--tokens",
                                 "400",
                                 "--sequences",
                                 "1",
                                 "--document-tokens",
                                 "1024",
                                 "--questions",
                                 "1",
                                 "--budgets",
                                 "2,1",
                                 "--json",
                                 json_});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(ReadFile(json_).value());
  ASSERT_EQ(rows.size(), 8U);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].at("part"), "tradeoff");
    EXPECT_EQ(rows[i].at("budget"), i < 4 ? 2 : 1);
    EXPECT_LE(rows[i].at("bpe"), rows[i].at("budget"));
    EXPECT_NEAR(rows[i].at("bpe"), rows[i].at("budget"), 16.5 / 128);  // the bits of one token
    EXPECT_TRUE(rows[i].contains("kl_mean"));
    EXPECT_TRUE(rows[i].contains("retrieval_exact"));
  }
  EXPECT_THAT(result.out, HasSubstr("tradeoff, mini x1, snapkv, 1 bits: found 1x16 "));
  EXPECT_THAT(result.out, HasSubstr("gain of 4x4 over 1x16: "));
}

TEST_F(EvalTest, OutHasRowsTablesAndPlotsWhereThereIsMatplotlib) {
  const std::string out = files_.File("new/out");
  const RunResult result = Eval({"--parts",
                                 "rate,planted",
                                 "--planted-tokens",
                                 "32768",
                                 "--codecs",
                                 "rot4,rot2",
                                 "--out",
                                 out});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(ReadFile(out + "/results.json").value());
  std::map<std::string, int> counts;
  for (const nlohmann::json& row : rows) {
    ++counts[row.at("part").get<std::string>() + " " + row.at("model").get<std::string>()];
  }
  EXPECT_EQ(counts["rate gaussian"], 2 + 20);  // and the reference lines
  EXPECT_EQ(counts["rate mini"], 2);
  EXPECT_EQ(counts["planted synthetic"], 2);
  EXPECT_THAT(ReadFile(out + "/table.md").value(), HasSubstr("## planted"));
  if (varve::Run({"/usr/bin/env", "python3", "-c", "import matplotlib"}).exit_code != 0 &&
      varve::Run({"/usr/bin/python3", "-c", "import matplotlib"}).exit_code != 0) {
    EXPECT_THAT(result.err, HasSubstr("install python3-matplotlib"));
    return;
  }
  EXPECT_THAT(result.err, HasSubstr("and plots"));
  for (const char* name : {"rate", "planted"}) {
    EXPECT_EQ(ReadFile(out + "/" + name + ".png")->substr(1, 3), "PNG");
    EXPECT_THAT(ReadFile(out + "/" + name + ".svg").value(), HasSubstr("</svg>"));
  }
  EXPECT_FALSE(FileExists(out + "/kl.png"));  // was not measured
}

TEST_F(EvalTest, WithoutPythonEverythingButThePlotsIsWritten) {
  // What Python finds first under this name is no matplotlib.
  ASSERT_OK(WriteFileAtomically(files_.File("matplotlib.py"), "raise ImportError('none')\n"));
  const std::string out = files_.File("out");
  const RunResult result = RunVarve(
      {"eval", "--model", TestModelDir(), "--parts", "rate", "--codecs", "rot4", "--out", out},
      {.environment = {{"PYTHONPATH", files_.path()}}, .timeout_s = 100});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  EXPECT_THAT(result.err, HasSubstr("no plots: install python3-matplotlib (`ops/packages eval`)"));
  EXPECT_TRUE(FileExists(out + "/results.json"));
  EXPECT_TRUE(FileExists(out + "/table.md"));
  EXPECT_FALSE(FileExists(out + "/rate.png"));
}

TEST_F(EvalTest, Int8WeightsAreComparedWithTheStoredOnes) {
  const RunResult result = Eval({"--parts",
                                 "divergence",
                                 "--text",
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
  const std::vector<std::pair<std::vector<std::string>, std::string>> refused = {
      {{"--parts", "taste"}, "there is no part 'taste'; there are: divergence, retrieval"},
      {{"--parts", "tradeoff", "--budgets", "0"}, "--budgets 0"},
      {{"--codecs", "klt2", "--calibration-text", files_.File("short")}, "--calibration-text"},
      {{"--parts", "planted", "--planted-tokens", "1000"}, "--planted-tokens 1000"},
      {{"--policies", "forget"}, "there is no token policy 'forget'; there are: full"},
      {{"--bits", "0.5"}, "--bits 0.5"},
      {{"--outliers", "0"}, "--outliers 0"},
      {{"--document-tokens", "100"}, "documents of 100 tokens"},
      {{"--document-tokens", "20000000"}, "must fit the model's"},
      {{"--tokens", "20000000", "--sequences", "1"}, "more than the model's"}};
  ASSERT_OK(WriteFileAtomically(files_.File("short"), "A few words."));
  for (const auto& [arguments, says] : refused) {
    const RunResult result = Eval(arguments);
    EXPECT_EQ(result.exit_code, cli::kExitUsage) << says;
    EXPECT_THAT(result.err, HasSubstr(says));
    EXPECT_THAT(result.err, Not(HasSubstr("calibration, "))) << "tables were made before " << says;
  }
  ASSERT_OK(WriteFileAtomically(files_.File("file"), ""));
  for (const char* output : {"--out", "--json"}) {
    const RunResult no_directory = Eval({output, files_.File("file") + "/below"});
    EXPECT_EQ(no_directory.exit_code, cli::kExitFailure) << output;
    EXPECT_THAT(no_directory.err, HasSubstr("below"));
    EXPECT_THAT(no_directory.err, Not(HasSubstr("calibration, ")));
  }
  const RunResult no_file_name = Eval({"--json", files_.path()});
  EXPECT_EQ(no_file_name.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_file_name.err, HasSubstr("is a directory"));
  const RunResult no_file = Eval({"--text", files_.File("none")});
  EXPECT_EQ(no_file.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_file.err, HasSubstr("none"));
  EXPECT_EQ(RunVarve({"eval"}).exit_code, cli::kExitUsage);
}

}  // namespace
}  // namespace varve
