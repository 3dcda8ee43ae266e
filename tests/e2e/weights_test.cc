// `varve serve --weights int8` on the bundled model: it answers, says so, and refuses what it does
// not know.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using testing::HasSubstr;

TEST(Weights, AServerWithInt8WeightsAnswersAndSaysWhatItServes) {
  const TempDir data;
  const ServerProcess server(data.path(), {"--workers", "2", "--weights", "int8"});
  EXPECT_THAT(server.process().Out(), HasSubstr("(weights int8) at http"));
  EXPECT_THAT(server.process().Err(), HasSubstr("weights held in int8: "));

  const auto http = cli::HttpClient::Create(server.url());
  ASSERT_OK(http);
  const auto models = http->Send({.method = "GET", .target = "/v1/models", .body = ""});
  ASSERT_OK(models);
  EXPECT_EQ(nlohmann::json::parse(models->body).at("data").at(0).at("weights"), "int8");

  const FactDocument document = MakeFactDocument(5, 200);
  const RunResult ingested = RunVarve({"ingest", "--name", "doc", "--server", server.url(), "-"},
                                      {.input = document.text});
  ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  const auto answer =
      server.api().Ask({.context = "doc", .question = document.question}, [](std::string_view) {});
  ASSERT_OK(answer);
  EXPECT_THAT(answer->text, HasSubstr(document.answer));
}

TEST(Weights, AContextOfOtherWeightsIsRefused) {
  const TempDir data;
  {
    ServerProcess stored(data.path());
    ASSERT_EQ(RunVarve({"ingest", "--name", "doc", "--server", stored.url(), "-"},
                       {.input = "The passcode of the warm storm is 26340."})
                  .exit_code,
              cli::kExitOk);
    EXPECT_EQ(stored.Terminate(), cli::kExitOk);
  }
  const ServerProcess int8(data.path(), {"--weights", "int8"});
  const auto answer =
      int8.api().Ask({.context = "doc", .question = "What is it?"}, [](std::string_view) {});
  ASSERT_FALSE(answer);
  EXPECT_THAT(answer.error().message, HasSubstr("weights: int8"));
}

TEST(Weights, AreASettingWhoseBadValuesAreNamed) {
  const TempDir files;
  const std::string file = files.File("settings.yaml");
  ASSERT_OK(WriteFileAtomically(file, "weights: int2\n"));
  const RunResult from_file = RunVarve({"serve", "--model", TestModelDir(), "--config", file});
  EXPECT_EQ(from_file.exit_code, cli::kExitUsage);
  EXPECT_THAT(from_file.err, HasSubstr("setting \"weights\""));
  EXPECT_THAT(from_file.err, HasSubstr("int2 not in {auto,int8}"));
  const RunResult from_environment =
      RunVarve({"serve", "--model", TestModelDir()}, {.environment = {{"VARVE_WEIGHTS", "int4"}}});
  EXPECT_EQ(from_environment.exit_code, cli::kExitUsage);
  EXPECT_THAT(from_environment.err, HasSubstr("VARVE_WEIGHTS"));
  EXPECT_THAT(from_environment.err, HasSubstr("int4 not in {auto,int8}"));
}

}  // namespace
}  // namespace varve
