// What HTTP clients get, byte for byte where it is ours to fix: status, shape and wording of
// answers and refusals. Values that differ from run to run are replaced by their type.
// VARVE_UPDATE_GOLDEN=1 writes the files anew.
#include <cstdlib>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::ordered_json;

// Fields whose values depend on the model's weights, the clock or chance.
const std::set<std::string> kVolatile = {"id",
                                         "created",
                                         "created_at",
                                         "updated_at",
                                         "last_used_at",
                                         "model_hash",
                                         "content",
                                         "text",
                                         "finish_reason",
                                         "tokens",
                                         "tokens_computed",
                                         "tokens_pending",
                                         "prompt_tokens",
                                         "cached_tokens",
                                         "completion_tokens",
                                         "total_tokens",
                                         "pages",
                                         "device_bytes",
                                         "bytes",
                                         "host_bytes",
                                         "disk_bytes",
                                         "bf16_bytes",
                                         "layer_tokens",
                                         "kept_layer_tokens"};

void Normalise(Json& value) {
  if (value.is_object()) {
    for (auto& [key, member] : value.items()) {
      if (kVolatile.contains(key) && !member.is_null() && !member.is_object()) {
        member = fmt::format("<{}>", member.is_number() ? "number" : member.type_name());
      } else {
        Normalise(member);
      }
    }
  } else if (value.is_array()) {
    for (Json& element : value) {
      Normalise(element);
    }
  }
}

class HttpGolden : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    data_ = std::make_unique<TempDir>();
    server_ =
        std::make_unique<ServerProcess>(data_->path(), std::vector<std::string>{"--workers", "2"});
    const RunResult ingested =
        RunVarve({"ingest", "--name", "doc", "--server", server_->url(), "-"},
                 {.input = MakeFactDocument(41, 60).text});
    ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  }
  static void TearDownTestSuite() {
    server_.reset();
    data_.reset();
  }

  // Compares "STATUS\n<body>" with tests/e2e/http_golden/NAME.txt.
  void Expect(const std::string& name,
              const std::string& method,
              const std::string& target,
              const std::string& body = "") {
    SCOPED_TRACE(name);
    const auto http = cli::HttpClient::Create(server_->url());
    ASSERT_OK(http);
    const auto response = http->Send({.method = method, .target = target, .body = body});
    ASSERT_OK(response);
    Json json = Json::parse(response->body, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << response->body;
    Normalise(json);
    Compare(name, fmt::format("{}\n{}\n", response->status, json.dump(1)));
  }

  void ExpectStream(const std::string& name, const std::string& target, const std::string& body) {
    SCOPED_TRACE(name);
    const auto http = cli::HttpClient::Create(server_->url());
    ASSERT_OK(http);
    std::string text;
    std::string last;
    const auto response = http->SendStreaming(
        {.method = "POST", .target = target, .body = body}, [&](std::string_view data) {
          Json json = Json::parse(data, nullptr, false);
          Normalise(json);
          const std::string line = json.is_discarded() ? std::string(data) : json.dump();
          text += line == last ? "" : line + "\n";  // pieces of equal shape count once
          last = line;
          return true;
        });
    ASSERT_OK(response);
    Compare(name, text);
  }

  static void Compare(const std::string& name, const std::string& actual) {
    const std::string file = fmt::format("{}/tests/e2e/http_golden/{}.txt", VARVE_SOURCE_DIR, name);
    if (std::getenv("VARVE_UPDATE_GOLDEN") != nullptr) {
      ASSERT_OK(WriteFileAtomically(file, actual));
    }
    const auto expected = ReadFile(file);
    ASSERT_OK(expected);
    EXPECT_EQ(actual, *expected);
  }

  static std::string Chat(const std::string& more) {
    return R"({"model":"mini","messages":[{"role":"user","content":"What is the rank of the red door?"}])" +
           more + "}";
  }

  static inline std::unique_ptr<TempDir> data_;
  static inline std::unique_ptr<ServerProcess> server_;
};

TEST_F(HttpGolden, Answers) {
  Expect("models", "GET", "/v1/models");
  Expect("healthz", "GET", "/healthz");
  Expect("readyz", "GET", "/readyz");
  Expect("context", "GET", "/v1/contexts/doc");
  Expect("contexts", "GET", "/v1/contexts");
  Expect("chat", "POST", "/v1/chat/completions", Chat(R"(,"context":"doc","max_tokens":4)"));
  Expect("completion",
         "POST",
         "/v1/completions",
         R"({"model":"mini","prompt":"It is","max_tokens":3,"temperature":0})");
  ExpectStream(
      "chat_stream",
      "/v1/chat/completions",
      Chat(
          R"(,"context":"doc","max_tokens":4,"stream":true,"stream_options":{"include_usage":true})"));
  ExpectStream("completion_stream",
               "/v1/completions",
               R"({"model":"mini","prompt":"It is","max_tokens":3,"temperature":0,"stream":true})");
}

TEST_F(HttpGolden, RefusalsOfCompletions) {
  Expect("bad_json", "POST", "/v1/chat/completions", "{\"model\":");
  Expect("not_an_object", "POST", "/v1/chat/completions", "[]");
  Expect("no_model", "POST", "/v1/chat/completions", R"({"messages":[]})");
  Expect("unknown_model",
         "POST",
         "/v1/chat/completions",
         R"({"model":"gpt","messages":[{"role":"user","content":"?"}]})");
  Expect("unknown_context", "POST", "/v1/chat/completions", Chat(R"(,"context":"none")"));
  Expect("wrong_type", "POST", "/v1/chat/completions", Chat(R"(,"max_tokens":"many")"));
  Expect("out_of_range", "POST", "/v1/chat/completions", Chat(R"(,"temperature":9)"));
  Expect("too_long", "POST", "/v1/chat/completions", Chat(R"(,"max_tokens":1000000000)"));
  Expect("no_prompt", "POST", "/v1/completions", R"({"model":"mini"})");
}

TEST_F(HttpGolden, RefusalsOfContexts) {
  Expect("context_not_found", "GET", "/v1/contexts/none");
  Expect("context_taken", "POST", "/v1/contexts", R"({"name":"doc","text":"x"})");
  Expect("fork_taken", "POST", "/v1/contexts/doc/fork", R"({"name":"doc"})");
  Expect("change_nothing", "PATCH", "/v1/contexts/doc", "{}");
  Expect("import_no_offset", "POST", "/v1/contexts/new/import", "x");
  Expect("import_no_file",
         "POST",
         "/v1/contexts/new/import?offset=0",
         "This is no context file, but a text.");
  Expect("import_cut", "POST", "/v1/contexts/new/import?offset=0&last=1", "VARVFILE");
  Expect("context_bad_name", "POST", "/v1/contexts", R"({"name":"a b","text":"x"})");
  Expect("context_no_text", "POST", "/v1/contexts", R"({"name":"new"})");
  Expect("context_unknown_kv",
         "POST",
         "/v1/contexts",
         R"({"name":"new","text":"x","kv":{"colour":"red"}})");
  Expect("context_unknown_codec",
         "POST",
         "/v1/contexts",
         R"({"name":"new","text":"x","kv":{"codec":"zip"}})");
  Expect("append_wrong_offset",
         "POST",
         "/v1/contexts/doc/append",
         R"({"offset":3,"hash":"0123456789abcdef","text":"x"})");
  Expect("append_bad_hash",
         "POST",
         "/v1/contexts/doc/append",
         R"({"offset":0,"hash":"xyz","text":"x"})");
}

TEST_F(HttpGolden, RefusalsOfPaths) {
  Expect("no_such_path", "GET", "/v1/nothing");
  Expect("wrong_method", "DELETE", "/v1/models");
}

}  // namespace
}  // namespace varve
