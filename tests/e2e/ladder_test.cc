// A context whose pages go down a ladder, through the command line and HTTP on the bundled model,
// under budgets that hold only part of it: answers come, `show` and /metrics tell what moved, and
// kill -9 changes nothing.
#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

class LadderE2eTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(WriteFileAtomically(files_.File("doc.txt"), document_.text));
    server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
  }
  RunResult Ingest(const std::string& name, const std::string& codec) {
    return RunVarve({"ingest",
                     "--name",
                     name,
                     "--kv-codec",
                     codec,
                     "--server",
                     server_->url(),
                     files_.File("doc.txt")});
  }
  std::string Answer() {
    const Json body = {{"model", *server_->api().ModelName()},
                       {"context", "doc"},
                       {"messages", {{{"role", "user"}, {"content", document_.question}}}},
                       {"temperature", 0},
                       {"max_tokens", 24}};
    const auto http = cli::HttpClient::Create(server_->url());
    EXPECT_OK(http);
    const auto response =
        http->Send({.method = "POST", .target = "/v1/chat/completions", .body = body.dump()});
    EXPECT_OK(response);
    EXPECT_EQ(response->status, 200) << response->body;
    return Json::parse(response->body).at("choices")[0].at("message").at("content");
  }
  // Over all workers.
  double Metric(const char* name, const std::string& label) {
    const auto value = server_->api().ReadMetric(name, label);
    EXPECT_OK(value) << name << " " << label;
    return value.has_value() ? *value : 0.0;
  }
  cli::ContextInfo Show() {
    const auto info = server_->api().GetContext("doc");
    EXPECT_OK(info);
    return *info;
  }
  // Until as many pages as the budgets want are cold; demotion is not the test's to hurry.
  cli::ContextInfo WaitForDemotions() {
    cli::ContextInfo before = Show();
    for (int quiet = 0; quiet < 20;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const cli::ContextInfo now = Show();
      const bool moved = now.rungs[0].pages != before.rungs[0].pages ||
                         now.rungs[1].pages != before.rungs[1].pages;
      quiet = moved || now.rungs[2].pages == 0 ? 0 : quiet + 1;
      before = now;
    }
    return before;
  }

  const FactDocument document_ = MakeFactDocument(8, 900);
  const std::vector<std::string> flags_ =
      {"--workers", "2", "--device-budget", "5MiB", "--host-budget", "3MiB"};
  TempDir files_;
  TempDir data_;
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(LadderE2eTest, PagesGoDownAnswersComeAndNothingIsLostByKillMinusNine) {
  const RunResult ingested = Ingest("doc", "int8,rot4,rot3");
  ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  const cli::ContextInfo settled = WaitForDemotions();
  EXPECT_EQ(settled.codec, "int8,rot4,rot3");
  for (const RungUsage& rung : settled.rungs) {
    EXPECT_GT(rung.pages, 0);
    EXPECT_GT(rung.bytes, 0U);
  }
  EXPECT_EQ(settled.rungs[0].pages + settled.rungs[1].pages + settled.rungs[2].pages,
            settled.pages);
  EXPECT_THAT(Answer(), HasSubstr(document_.answer));

  const std::string show = RunVarve({"contexts", "show", "doc", "--server", server_->url()}).out;
  EXPECT_THAT(show, HasSubstr("int8,rot4,rot3"));
  EXPECT_THAT(show, testing::ContainsRegex("warm +[0-9.]+ [KM]iB in [0-9]+ pages"));
  EXPECT_GT(Metric("varve_demotions_total", "rung=\"cold\""), 0);
  EXPECT_GT(Metric("varve_demoted_bytes_total", "rung=\"cold\""), 0);
  EXPECT_EQ(Metric("varve_ladder_pages", "rung=\"cold\""), settled.rungs[2].pages);
  EXPECT_EQ(Metric("varve_demotion_failures_total", "reason=\"write\""), 0);
  for (const char* tier : {"tier=\"device\"", "tier=\"host\""}) {
    EXPECT_LE(Metric("varve_tier_used_bytes", tier), Metric("varve_tier_budget_bytes", tier));
    EXPECT_GT(Metric("varve_page_reads_total", tier), 0);
  }

  server_->Kill();
  server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
  EXPECT_THAT(Answer(), HasSubstr(document_.answer));
  const cli::ContextInfo again = Show();
  EXPECT_EQ(again.pages, settled.pages);
  EXPECT_EQ(again.tokens, settled.tokens);
  EXPECT_EQ(server_->DocumentTokensPrefilled(), 0);
}

TEST_F(LadderE2eTest, LaddersThatMakeNoSenseAreRefusedByName) {
  const RunResult more_bits = Ingest("doc", "int4,int8");
  EXPECT_NE(more_bits.exit_code, cli::kExitOk);
  EXPECT_THAT(more_bits.err, HasSubstr("warm_codec is int8"));
  const RunResult unknown = Ingest("doc", "int8,,zip");
  EXPECT_NE(unknown.exit_code, cli::kExitOk);
  EXPECT_THAT(unknown.err, HasSubstr("cold_codec: there is no codec 'zip'"));
  const RunResult good = Ingest("doc", "int8,,int4");
  EXPECT_EQ(good.exit_code, cli::kExitOk) << good.err;
  EXPECT_EQ(Ingest("doc", "int8,,int4").exit_code, cli::kExitOk) << "the same again resumes";
  EXPECT_NE(Ingest("doc", "int8").exit_code, cli::kExitOk);
}

}  // namespace
}  // namespace varve
