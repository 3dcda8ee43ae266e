// More requests than the server has room for: refused with 429, never queued without end; the
// server goes on.
#include <atomic>
#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;

TEST(Overload, AFullQueueIsAnswered429AndTheServerGoesOn) {
  const TempDir data;
  ServerProcess server(data.path(), {"--max-running", "1", "--max-queue", "1"});
  const auto http = cli::HttpClient::Create(server.url());
  const auto model = server.api().ModelName();
  ASSERT_OK(model);
  const Json body = {{"model", *model},
                     {"prompt", "Once upon a time"},
                     {"max_tokens", 1000000},
                     {"ignore_eos", true},
                     {"stream", true}};
  const cli::HttpRequest request = {
      .method = "POST", .target = "/v1/completions", .body = body.dump()};

  // One runs, one waits; both go on until the test has seen enough.
  std::atomic<bool> enough = false;
  const auto stream = [&] {
    (void)http->SendStreaming(request, [&](std::string_view) { return !enough; });
  };
  const auto wait_for = [&](const std::string& metric) {
    int tries = 15000;  // half a minute
    while (server.api().ReadMetric(metric, "").value() != 1 && --tries > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    EXPECT_GT(tries, 0) << metric << " does not become 1";
  };
  std::thread running(stream);
  wait_for("varve_num_requests_running");
  std::thread waiting(stream);
  wait_for("varve_num_requests_waiting");

  const auto refused = http->Send(request);
  ASSERT_OK(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_GE(refused->retry_after_s, 1);
  EXPECT_EQ(Json::parse(refused->body).at("error").at("type"), "rate_limit_error");

  const RunResult asked = RunVarve({"ask", "--server", server.url(), "?"});
  EXPECT_EQ(asked.exit_code, cli::kExitFailure);
  EXPECT_THAT(asked.err, testing::HasSubstr("waiting"));

  enough = true;
  running.join();
  waiting.join();
  // Whoever waited behind the two is served, and the next one too.
  EXPECT_OK(server.api().Ask({.question = "?", .max_tokens = 1}, [](std::string_view) {}));
}

}  // namespace
}  // namespace varve
