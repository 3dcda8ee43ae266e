// The HTTP side of the command line against a server that misbehaves on purpose.
#include <gtest/gtest.h>

#include "tests/e2e/fake_server.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/api_client.h"
#include "ops/cli/http_client.h"

namespace varve::cli {
namespace {

// A port that nothing listens on: that of a server which is gone.
std::string DeadUrl() {
  return FakeServer([](const FakeRequest&) { return FakeResponse{}; }).url();
}

FakeServer::Handler Always(const FakeResponse& response) {
  return [response](const FakeRequest&) { return response; };
}

Result<HttpResponse> Get(const std::string& url,
                         const std::string& target,
                         int64_t timeout_ms = 5000) {
  VARVE_TRY(const HttpClient client, HttpClient::Create(url));
  return client.Send({.target = target, .timeout_ms = timeout_ms});
}

TEST(HttpClient, RefusesUrlsThatNameNoServer) {
  for (const char* url : {"",
                          "127.0.0.1:8080",
                          "https://x",
                          "http://",
                          "http://:80",
                          "http://h:0",
                          "http://h:99999",
                          "http://h:80a"}) {
    EXPECT_ERROR(HttpClient::Create(url), ErrorCode::kInvalidArgument) << url;
  }
  for (const char* url :
       {"http://localhost", "http://127.0.0.1:8080/", "http://[::1]:8080", "http://h:1/prefix"}) {
    EXPECT_OK(HttpClient::Create(url)) << url;
  }
}

TEST(HttpClient, SaysThatNoServerIsThere) {
  const auto response = Get(DeadUrl(), "/");
  ASSERT_ERROR(response, ErrorCode::kUnavailable);
  EXPECT_NE(response.error().message.find("is `varve serve` running?"), std::string::npos);
}

TEST(HttpClient, SendsMethodPrefixAndBody) {
  FakeRequest seen;
  FakeServer server([&](const FakeRequest& request) {
    seen = request;
    return FakeResponse{.status = 202, .body = "done", .headers = "Retry-After: 7\r\n"};
  });
  const auto client = HttpClient::Create(server.url() + "/api/");
  ASSERT_OK(client);
  const auto response = client->Send({.method = "POST", .target = "/v1/x", .body = "{}"});
  ASSERT_OK(response);
  EXPECT_EQ(response->status, 202);
  EXPECT_EQ(response->body, "done");
  EXPECT_EQ(response->retry_after_s, 7);
  EXPECT_EQ(seen.method, "POST");
  EXPECT_EQ(seen.target, "/api/v1/x");
  EXPECT_EQ(seen.body, "{}");
}

TEST(HttpClient, GivesUpOnASilentServer) {
  FakeServer server(Always({.hang = true}));
  const auto response = Get(server.url(), "/", 150);
  ASSERT_ERROR(response, ErrorCode::kUnavailable);
  EXPECT_NE(response.error().message.find("within 0.15 s"), std::string::npos)
      << response.error().message;
}

TEST(HttpClient, SaysThatTheConnectionWasLost) {
  FakeServer server(Always({.hang_up = true}));
  EXPECT_ERROR(Get(server.url(), "/"), ErrorCode::kUnavailable);
}

TEST(HttpClient, ReadsAnAnswerOfManyMegabytes) {
  const std::string body(size_t{9} << 20, 'x');
  FakeServer server(Always({.body = body}));
  const auto response = Get(server.url(), "/");
  ASSERT_OK(response);
  EXPECT_TRUE(response->body == body);
}

std::string Delta(const std::string& text) {
  return R"(data: {"choices":[{"delta":{"content":")" + text + R"("},"finish_reason":null}]})" +
         "\n\n";
}

const char* const kFinish =
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: "
    "[DONE]\n\n";

// Serves a model list, and `answer` to everything else.
FakeServer::Handler WithModel(const FakeResponse& answer) {
  return [answer](const FakeRequest& request) {
    return request.target == "/v1/models" ? FakeResponse{.body = R"({"data":[{"id":"mini"}]})"}
                                          : answer;
  };
}

Result<ChatAnswer> Ask(const std::string& url, std::string* streamed = nullptr) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(url));
  return client.Ask({.question = "?"}, [&](std::string_view piece) {
    if (streamed != nullptr) {
      streamed->append(piece).append("|");
    }
  });
}

TEST(ApiClient, StreamsAnAnswer) {
  FakeServer server(WithModel(
      {.pieces = {Delta("Hel"), Delta("lo").substr(0, 20), Delta("lo").substr(20), kFinish}}));
  std::string streamed;
  const auto answer = Ask(server.url(), &streamed);
  ASSERT_OK(answer);
  EXPECT_EQ(streamed, "Hel|lo|");
  EXPECT_EQ(answer->text, "Hello");
  EXPECT_EQ(answer->finish_reason, "stop");
  EXPECT_EQ(answer->prompt_tokens, 9);
  EXPECT_EQ(answer->completion_tokens, 3);
}

TEST(ApiClient, AnAnswerThatIsCutOffIsNoAnswer) {
  FakeServer cut(WithModel({.pieces = {Delta("Hel")}, .hang_up = true}));
  EXPECT_ERROR(Ask(cut.url()), ErrorCode::kUnavailable);
  FakeServer ended(WithModel({.pieces = {Delta("Hel")}}));
  EXPECT_ERROR(Ask(ended.url()), ErrorCode::kUnavailable);
}

TEST(ApiClient, ReportsAnErrorInsideTheStream) {
  FakeServer server(WithModel(
      {.pieces = {Delta("Hel"), "data: {\"error\":{\"message\":\"a worker is lost\"}}\n\n"}}));
  const auto answer = Ask(server.url());
  ASSERT_ERROR(answer, ErrorCode::kInternal);
  EXPECT_EQ(answer.error().message, "a worker is lost");
  FakeServer garbage(WithModel({.pieces = {"data: ?\n\n"}}));
  EXPECT_ERROR(Ask(garbage.url()), ErrorCode::kInternal);
}

TEST(ApiClient, PassesOnWhatTheServerSays) {
  const std::string body = R"({"error":{"message":"the queue is full","type":"rate_limit_error"}})";
  const struct {
    int status;
    ErrorCode code;
  } cases[] = {{400, ErrorCode::kInvalidArgument},
               {404, ErrorCode::kNotFound},
               {409, ErrorCode::kConflict},
               {429, ErrorCode::kResourceExhausted},
               {503, ErrorCode::kUnavailable},
               {500, ErrorCode::kInternal}};
  for (const auto& expected : cases) {
    FakeServer server(WithModel({.status = expected.status, .body = body}));
    const auto answer = Ask(server.url());
    ASSERT_ERROR(answer, expected.code) << expected.status;
    EXPECT_EQ(answer.error().message, "the queue is full");
  }
}

TEST(ApiClient, RecognisesAServerOfAnotherKind) {
  FakeServer server(Always({.body = "<html>"}));
  const auto client = ApiClient::Create(server.url());
  ASSERT_OK(client);
  EXPECT_ERROR(client->ModelName(), ErrorCode::kInternal);
  EXPECT_ERROR(client->ListContexts(), ErrorCode::kInternal);
  EXPECT_ERROR(client->GetContext("x"), ErrorCode::kInternal);
}

TEST(ApiClient, SumsAMetricByItsLabel) {
  FakeServer server(Always(
      {.body = "# HELP varve_x_total of all\nvarve_x_total{kind=\"document\",w=\"0\"} 3\n"
               "varve_x_total{kind=\"document\",w=\"1\"} 4.5\nvarve_x_total{kind=\"request\"} 9\n"
               "varve_x_total_created{kind=\"document\"} 100\n"}));
  const auto client = ApiClient::Create(server.url());
  ASSERT_OK(client);
  const auto sum = client->ReadMetric("varve_x_total", "kind=\"document\"");
  ASSERT_OK(sum);
  EXPECT_EQ(*sum, 7.5);
  EXPECT_ERROR(client->ReadMetric("varve_y_total", ""), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace varve::cli
