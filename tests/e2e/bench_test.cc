// `varve bench`: every bench runs, small, and prints the rows that scripts read.
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/server_process.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

// Each with what is common to all rows; those that time something with their times.
std::vector<nlohmann::json> RowsOf(std::vector<std::string> arguments,
                                   bool is_timed(const nlohmann::json& row)) {
  arguments.insert(arguments.begin(), "bench");
  arguments.insert(arguments.end(), {"--json", "--threads", "2"});
  const RunResult result = RunVarve(arguments);
  EXPECT_EQ(result.exit_code, cli::kExitOk) << result.err;
  std::vector<nlohmann::json> rows;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) {
    rows.push_back(nlohmann::json::parse(line));
    for (const char* key : {"tokens", "threads", "workers", "bpe"}) {
      EXPECT_TRUE(rows.back().at(key).is_number()) << key << " in " << line;
    }
    if (is_timed(rows.back())) {
      for (const char* key : {"tokens_per_s", "roof_fraction"}) {
        EXPECT_TRUE(rows.back().at(key).is_number()) << key << " in " << line;
      }
      EXPECT_GT(rows.back().at("median_ms"), 0) << line;
    }
    EXPECT_TRUE(rows.back().at("codec").is_string()) << line;
    EXPECT_TRUE(rows.back().at("shape").is_string()) << line;
  }
  return rows;
}

std::vector<nlohmann::json> Rows(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--runs", "1"});
  return RowsOf(std::move(arguments), [](const nlohmann::json&) { return true; });
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

std::vector<nlohmann::json> ContextRows(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   {"context", "--model", TestModelDir(), "--device-share", "0.5"});
  return RowsOf(std::move(arguments),
                [](const nlohmann::json& row) { return row.at("bench") != "context_tiers"; });
}

TEST(Bench, ContextIsIngestedOnceAndAskedExactlyAndSelectively) {
  const TempDir data;
  const std::vector<std::string> arguments = {"--data",
                                              data.path(),
                                              "--tokens",
                                              "16K",
                                              "--questions",
                                              "8",
                                              "--budget-tokens",
                                              "4K",
                                              "--workers",
                                              "2"};
  const auto first = ContextRows(arguments);
  ASSERT_THAT(
      Names(first),
      testing::ElementsAre("context_ingest", "context_exact", "context_tiers", "context_select"));
  const int64_t tokens = first[0].at("tokens");
  EXPECT_NEAR(static_cast<double>(tokens), 16384, 500);
  EXPECT_EQ(first[0].at("tokens_computed"), tokens);
  for (const size_t row : {1, 3}) {
    EXPECT_EQ(first[row].at("asked"), 8);
    EXPECT_GE(first[row].at("right"), 6) << first[row];  // what the model can
    EXPECT_GE(first[row].at("p90_ms"), first[row].at("median_ms"));
  }
  EXPECT_EQ(first[1].at("read_share"), 1);
  EXPECT_GT(first[3].at("read_share"), 0);
  EXPECT_LT(first[3].at("read_share"), 0.3);
  // What memory holds is within the budgets, which are shares of what the disk holds.
  const auto& tiers = first[2];
  const double disk = tiers.at("disk_bytes_per_token").get<double>() * static_cast<double>(tokens);
  EXPECT_NEAR(tiers.at("device_budget_bytes").get<double>(), 0.5 * disk, 0.001 * disk);
  EXPECT_NEAR(tiers.at("host_budget_bytes").get<double>(), 0.3 * disk, 0.001 * disk);
  EXPECT_LE(tiers.at("device_bytes_per_token").get<double>() * static_cast<double>(tokens),
            0.5 * disk);
  EXPECT_LE(tiers.at("host_bytes_per_token").get<double>() * static_cast<double>(tokens),
            0.3 * disk);

  // The same again measures what is there.
  std::vector<std::string> exact = arguments;
  exact.insert(exact.end(), {"--attention", "exact"});
  const auto again = ContextRows(exact);
  ASSERT_THAT(Names(again), testing::ElementsAre("context_exact", "context_tiers"));
  EXPECT_EQ(again[0].at("tokens"), tokens);
  EXPECT_EQ(again[0].at("right"), first[1].at("right"));
  // Another document is not put in its place.
  exact.insert(exact.end(), {"--seed", "2"});
  exact.insert(exact.begin(), {"bench", "context", "--model", TestModelDir()});
  const RunResult other = RunVarve(exact);
  EXPECT_EQ(other.exit_code, cli::kExitFailure);
  EXPECT_THAT(other.err, testing::HasSubstr("holds another text"));
}

TEST(Bench, ContextSaysWhatIsWrong) {
  const auto run = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"bench", "context", "--model", TestModelDir()});
    return RunVarve(arguments);
  };
  const std::pair<std::vector<std::string>, std::string> wrong[] = {
      {{"--tokens", "many"}, "'many' is no number of tokens"},
      {{"--tokens", "100"}, "100 tokens are too few"},
      {{"--questions", "10"}, "10 questions"},
      {{"--attention", "some"}, "--attention 'some'"},
      {{"--host-share", "0"}, "--host-share 0"},
      {{"--device-share", "-1"}, "--device-share -1"}};
  for (const auto& [arguments, message] : wrong) {
    const RunResult result = run(arguments);
    EXPECT_EQ(result.exit_code, cli::kExitUsage) << result.err;
    EXPECT_THAT(result.err, testing::HasSubstr(message));
  }
  const RunResult no_text = run({"--text", "/nonexistent"});
  EXPECT_EQ(no_text.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_text.err, testing::HasSubstr("/nonexistent"));
}

// A shape so small that the device budget's least holds little more than what a step works with.
std::vector<std::string> SmallScale(std::vector<std::string> more) {
  std::vector<std::string> arguments = {"scale",
                                        "--tokens",
                                        "64K,128K",
                                        "--qo-heads",
                                        "4",
                                        "--kv-heads",
                                        "2",
                                        "--head-dim",
                                        "64",
                                        "--workers",
                                        "3",
                                        "--budget-tokens",
                                        "8K",
                                        "--runs",
                                        "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(Bench, ScaleFindsNeedlesInEveryTierExactlyAndSelectively) {
  const TempDir data;
  const auto is_timed = [](const nlohmann::json&) { return true; };
  const auto rows = RowsOf(SmallScale({"--data", data.path()}), is_timed);
  ASSERT_THAT(Names(rows),
              testing::ElementsAre("scale_exact", "scale_select", "scale_exact", "scale_select"));
  for (size_t i = 0; i < rows.size(); ++i) {
    const nlohmann::json& row = rows[i];
    const bool is_exact = i % 2 == 0;
    EXPECT_EQ(row.at("tokens"), i < 2 ? 65536 : 131072);
    EXPECT_EQ(row.at("needles"), 4);
    EXPECT_EQ(row.at("needles_found"), 4) << row;
    const double pages = row.at("pages_device").get<double>() + row.at("pages_host").get<double>() +
                         row.at("pages_disk").get<double>();
    const double all = row.at("tokens").get<double>() / 128;
    if (is_exact) {
      EXPECT_EQ(row.at("read_share"), 1);
      EXPECT_NEAR(pages, all, 4);  // and the new tokens' page
    } else {
      EXPECT_LE(row.at("read_share").get<double>(), 8192.0 / row.at("tokens").get<double>() + 0.01);
      EXPECT_LT(pages, 0.25 * all);
    }
  }
  // What is there is not made again, and a longer one continues it.
  const auto again = RowsOf({"scale",
                             "--tokens",
                             "192K",
                             "--qo-heads",
                             "4",
                             "--kv-heads",
                             "2",
                             "--head-dim",
                             "64",
                             "--workers",
                             "2",
                             "--runs",
                             "1",
                             "--data",
                             data.path(),
                             "--attention",
                             "exact"},
                            is_timed);
  ASSERT_THAT(Names(again), testing::ElementsAre("scale_exact"));
  EXPECT_EQ(again[0].at("needles_found"), 2);
}

TEST(Bench, ScaleSaysWhatIsWrong) {
  const std::pair<std::vector<std::string>, std::string> wrong[] = {
      {{"--tokens", "100000"}, "--tokens 100000: lengths are multiples of 64K"},
      {{"--kv-heads", "3"}, "--kv-heads 3"},
      {{"--attention", "some"}, "--attention 'some'"},
      {{"--codec", "klt2"}, "--codec klt2 needs tables"},
      {{"--codec", "none"}, "none"},
      {{"--host-share", "0"}, "--host-share"}};
  for (const auto& [arguments, message] : wrong) {
    std::vector<std::string> all = {"bench", "scale"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const RunResult result = RunVarve(all);
    EXPECT_EQ(result.exit_code, cli::kExitUsage) << result.err;
    EXPECT_THAT(result.err, testing::HasSubstr(message));
  }
}

TEST(Bench, SaysWhatIsWrong) {
  EXPECT_EQ(RunVarve({"bench", "attention", "--codec", "none"}).exit_code, cli::kExitUsage);
  for (const char* bench : {"step", "ingest", "restart", "context"}) {
    const RunResult result = RunVarve({"bench", bench, "--model", "/nonexistent"});
    EXPECT_EQ(result.exit_code, cli::kExitFailure) << bench;
    EXPECT_NE(result.err, "") << bench;
  }
}

}  // namespace
}  // namespace varve
