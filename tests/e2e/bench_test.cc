// `varve bench`: every bench runs, small, and prints the rows that scripts read.
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/server_process.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

std::vector<nlohmann::json> Rows(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "bench");
  arguments.insert(arguments.end(), {"--json", "--runs", "1", "--threads", "2"});
  const RunResult result = RunVarve(arguments);
  EXPECT_EQ(result.exit_code, cli::kExitOk) << result.err;
  std::vector<nlohmann::json> rows;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) {
    rows.push_back(nlohmann::json::parse(line));
    for (const char* key :
         {"tokens", "threads", "workers", "median_ms", "tokens_per_s", "roof_fraction", "bpe"}) {
      EXPECT_TRUE(rows.back().at(key).is_number()) << key << " in " << line;
    }
    EXPECT_GT(rows.back().at("median_ms"), 0) << line;
    EXPECT_TRUE(rows.back().at("codec").is_string()) << line;
    EXPECT_TRUE(rows.back().at("shape").is_string()) << line;
  }
  return rows;
}

std::vector<std::string> Names(const std::vector<nlohmann::json>& rows) {
  std::vector<std::string> names;
  for (const nlohmann::json& row : rows) {
    names.push_back(row.at("bench"));
  }
  return names;
}

TEST(Bench, AttentionPrintsARowForEachCodec) {
  const auto rows = Rows({"attention", "--tokens", "512", "--queries", "0"});
  EXPECT_THAT(Names(rows), testing::Each("attention"));
  EXPECT_GE(rows.size(), 6U);
  size_t num_encode = 0;
  for (const nlohmann::json& row : rows) {
    if (row.at("shape").get<std::string>().starts_with("encode")) {
      ++num_encode;
      EXPECT_GT(row.at("input_gb_per_s"), 0);
      EXPECT_EQ(row.at("threads"), 1);
    }
  }
  EXPECT_EQ(2 * num_encode, rows.size());
}

TEST(Bench, DiskPrintsTheTierBesideTheDisk) {
  const RunResult result = RunVarve(
      {"bench", "disk", "--bytes", "4MB", "--record-bytes", "5000", "--runs", "1", "--json"});
  EXPECT_EQ(result.exit_code, cli::kExitOk) << result.err;
  std::vector<nlohmann::json> rows;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) {
    rows.push_back(nlohmann::json::parse(line));
    EXPECT_EQ(rows.back().at("record_bytes"), 8192) << "whole sectors";
    EXPECT_GT(rows.back().at("mb_per_s"), 0);
  }
  EXPECT_THAT(Names(rows), testing::IsSupersetOf({"disk_write", "disk_read", "raw_read"}));
  EXPECT_GE(rows.front().at("write_amplification"), 1.0);
  EXPECT_LT(rows.front().at("write_amplification"), 1.2);
  const RunResult nowhere = RunVarve({"bench", "disk", "--directory", "/nowhere"});
  EXPECT_EQ(nowhere.exit_code, cli::kExitUsage);
  EXPECT_THAT(nowhere.err, testing::HasSubstr("/nowhere"));
}

TEST(Bench, StepPrintsPrefillAndDecode) {
  const auto names = Names(Rows({"step",
                                 "--model",
                                 TestModelDir(),
                                 "--tokens",
                                 "256",
                                 "--workers",
                                 "2",
                                 "--decode-steps",
                                 "2"}));
  EXPECT_THAT(names, testing::IsSupersetOf({"step_prefill", "step_decode"}));
}

TEST(Bench, StepPutsFormsOfWeightsSideBySideBehindMadeUpPages) {
  const auto rows = Rows({"step",
                          "--model",
                          TestModelDir(),
                          "--tokens",
                          "700",
                          "--workers",
                          "2",
                          "--decode-steps",
                          "2",
                          "--chunk-tokens",
                          "64",
                          "--fill",
                          "--weights",
                          "auto",
                          "int8"});
  ASSERT_THAT(Names(rows),
              testing::ElementsAre("step_prefill", "step_decode", "step_prefill", "step_decode"));
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].at("tokens"), 700);
    EXPECT_EQ(rows[i].at("weights"), i < 2 ? "auto" : "int8");
  }
  // A chunk is timed, not the 700 tokens before it.
  EXPECT_NEAR(rows[0].at("tokens_per_s").get<double>() * rows[0].at("median_ms").get<double>(),
              64 * 1000.0,
              1.0);
}

TEST(Bench, StepRunsARandomModelOfAGivenShape) {
  const TempDir directory;
  const std::string tool = VARVE_SOURCE_DIR "/ops/bench/random_model";
  const RunResult made = varve::Run({tool,
                                     "--layers",
                                     "2",
                                     "--heads",
                                     "4",
                                     "--kv-heads",
                                     "2",
                                     "--hidden",
                                     "128",
                                     "--vocab",
                                     "256",
                                     "--head-dim",
                                     "32",
                                     "--intermediate",
                                     "192",
                                     directory.path()});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto rows = Rows({"step",
                          "--model",
                          directory.path(),
                          "--tokens",
                          "300",
                          "--workers",
                          "1",
                          "--decode-steps",
                          "2",
                          "--weights",
                          "int8"});
  EXPECT_THAT(Names(rows), testing::ElementsAre("step_prefill", "step_decode"));
  const RunResult wrong = varve::Run({tool, "--heads", "4", "--kv-heads", "3", directory.path()});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, testing::HasSubstr("--kv-heads 3 must divide --heads 4"));
}

TEST(Bench, IngestAndRestartMeasureTheServedPath) {
  const auto ingest =
      Rows({"ingest", "--model", TestModelDir(), "--tokens", "600", "--workers", "2"});
  ASSERT_THAT(Names(ingest), testing::ElementsAre("ingest"));
  EXPECT_GE(ingest[0].at("tokens"), 600);
  EXPECT_GT(ingest[0].at("bpe"), 8);  // int8 pages, and what is exact
  EXPECT_GT(ingest[0].at("roof_fraction"), 0);
  EXPECT_LT(ingest[0].at("roof_fraction"), 1);

  const auto restart = Rows({"restart", "--model", TestModelDir(), "--tokens", "600"});
  ASSERT_THAT(Names(restart),
              testing::ElementsAre("restart_reopen", "restart_answer", "recompute_answer"));
  EXPECT_EQ(restart[0].at("roof_fraction"), -1);
}

TEST(Bench, ADocumentOnDiskIsNeverSlowerThanComputingItAgain) {
  for (const char* tokens : {"300", "3000"}) {
    const auto rows = Rows({"restart", "--model", TestModelDir(), "--tokens", tokens});
    ASSERT_EQ(rows.size(), 3U);
    EXPECT_LT(rows[1].at("median_ms"), rows[2].at("median_ms")) << tokens << " tokens";
  }
}

TEST(Bench, SaysWhatIsWrong) {
  EXPECT_EQ(RunVarve({"bench", "attention", "--codec", "none"}).exit_code, cli::kExitUsage);
  for (const char* bench : {"step", "ingest", "restart"}) {
    const RunResult result = RunVarve({"bench", bench, "--model", "/nonexistent"});
    EXPECT_EQ(result.exit_code, cli::kExitFailure) << bench;
    EXPECT_NE(result.err, "") << bench;
  }
}

}  // namespace
}  // namespace varve
