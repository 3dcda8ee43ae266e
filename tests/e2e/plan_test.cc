// `varve plan`, as it is called.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/server_process.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using testing::HasSubstr;

std::string ConfigFile() {
  return TestModelDir() + "/config.json";
}

nlohmann::json JsonPlan(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"plan", "--json", "--model"});
  const RunResult result = RunVarve(arguments);
  EXPECT_EQ(result.exit_code, cli::kExitOk) << result.err;
  return nlohmann::json::parse(result.out);
}

TEST(PlanCommand, NeedsNoWeights) {
  const auto from_file = JsonPlan({ConfigFile(), "--context", "10M", "--codec", "int8,int4,rot2"});
  EXPECT_EQ(from_file, JsonPlan({TestModelDir(), "--context", "10M", "--codec", "int8,int4,rot2"}));
  EXPECT_EQ(from_file.at("tokens"), 10'485'760);
  EXPECT_EQ(from_file.at("tiers").size(), 3U);
  EXPECT_TRUE(from_file.at("fits"));
  EXPECT_FALSE(from_file.at("is_measured"));
}

TEST(PlanCommand, PrintsTiersTimesAndWhatTheyAreWorth) {
  const RunResult result =
      RunVarve({"plan", "--model", ConfigFile(), "--context", "1M", "--gpus", "1"});
  EXPECT_EQ(result.exit_code, cli::kExitOk);
  for (const char* text : {"1,048,576 tokens on 1 worker of h100",
                           "It fits.",
                           "exact attention",
                           "select, 32K tokens",
                           "ingest",
                           "assumed, not measured"}) {
    EXPECT_THAT(result.out, HasSubstr(text));
  }
}

TEST(PlanCommand, MeasuresThisMachineOrReadsOfAnother) {
  const auto here =
      JsonPlan({ConfigFile(), "--context", "64K", "--gpus", "1", "--machine", "here"});
  EXPECT_TRUE(here.at("is_measured"));
  EXPECT_GT(here.at("exact_ms"), 0);
  EXPECT_LT(here.at("exact_ms"), 10'000);
  const TempDir directory;
  const std::string file = directory.path() + "/slow.yaml";
  std::ofstream(file) << "name: slow\nread_bandwidth: 1e9\n";
  const auto slow = JsonPlan({ConfigFile(), "--context", "64K", "--machine", file});
  EXPECT_EQ(slow.at("machine"), "slow");
  EXPECT_GT(slow.at("exact_ms").get<double>(),
            JsonPlan({ConfigFile(), "--context", "64K"}).at("exact_ms").get<double>());
}

TEST(PlanCommand, SaysWhatIsWrong) {
  const std::pair<std::vector<std::string>, std::string> wrong[] = {
      {{"--context", "much"}, "'much'"},
      {{"--machine", "h300"}, "there is no machine 'h300'"},
      {{"--codec", "none"}, "none"},
      {{"--codec", "int4,int8"}, "warm_codec is int8"},
      {{"--gpus", "0"}, "--gpus"},
      {{"--device-budget", "big"}, "big"}};
  for (const auto& [arguments, message] : wrong) {
    std::vector<std::string> all = {"plan", "--model", ConfigFile()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const RunResult result = RunVarve(all);
    EXPECT_EQ(result.exit_code, cli::kExitUsage) << result.err;
    EXPECT_THAT(result.err, HasSubstr(message));
  }
  const RunResult no_model = RunVarve({"plan", "--model", "/nonexistent"});
  EXPECT_EQ(no_model.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_model.err, HasSubstr("/nonexistent"));
}

}  // namespace
}  // namespace varve
