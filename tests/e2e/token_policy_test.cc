// Contexts whose tokens are pruned or kept in several codecs, through the command line and HTTP on
// the bundled model: bytes go down, answers come, restarts change nothing, bad choices are refused.
#include "kvstore/tokens/token_policy.h"

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

class TokenPolicyTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(WriteFileAtomically(file_, document_.text));
    server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
  }

  RunResult Ingest(const std::string& name, std::vector<std::string> kv) {
    std::vector<std::string> command = {
        "ingest", "--name", name, "--server", server_->url(), file_};
    command.insert(command.end(), kv.begin(), kv.end());
    return RunVarve(command);
  }
  // The greedy answer with log-probabilities: equal only if the KV behind it is equal.
  std::string Answer(const std::string& context) {
    const auto http = cli::HttpClient::Create(server_->url());
    EXPECT_OK(http);
    const Json body = {{"model", *server_->api().ModelName()},
                       {"context", context},
                       {"messages", {{{"role", "user"}, {"content", document_.question}}}},
                       {"temperature", 0},
                       {"max_tokens", 16},
                       {"logprobs", true}};
    const auto response =
        http->Send({.method = "POST", .target = "/v1/chat/completions", .body = body.dump()});
    EXPECT_OK(response);
    EXPECT_EQ(response->status, 200) << response->body;
    return Json::parse(response->body).at("choices").dump();
  }
  cli::ContextInfo Show(const std::string& context) {
    const auto info = server_->api().GetContext(context);
    EXPECT_OK(info);
    return *info;
  }

  const FactDocument document_ = MakeFactDocument(31, 150);
  const std::vector<std::string> flags_ = {"--workers", "2"};
  TempDir files_;
  TempDir data_;
  const std::string file_ = files_.File("doc.txt");
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(TokenPolicyTest, HalfOfTheTokensTakeAboutHalfOfTheBytes) {
  ASSERT_EQ(Ingest("whole", {}).exit_code, cli::kExitOk);
  const RunResult pruned = Ingest("pruned", {"--kv-tokens", "snapkv", "--keep", "0.5"});
  ASSERT_EQ(pruned.exit_code, cli::kExitOk) << pruned.err;
  const cli::ContextInfo all = Show("whole");
  const cli::ContextInfo half = Show("pruned");
  ASSERT_EQ(all.tokens, half.tokens);
  ASSERT_GT(all.tokens, 1500);
  EXPECT_EQ(all.kept_layer_tokens, all.layer_tokens);
  EXPECT_EQ(half.layer_tokens, all.layer_tokens);
  EXPECT_EQ(half.bf16_bytes, all.bf16_bytes);
  // The unsealed tail, up to 256 tokens of a layer, is whole.
  const double kept =
      static_cast<double>(half.kept_layer_tokens) / static_cast<double>(half.layer_tokens);
  EXPECT_GT(kept, 0.5);
  EXPECT_LT(kept, 0.5 + 256.0 / static_cast<double>(all.tokens));
  // Indices and headers cost some of what is saved.
  const double bytes = static_cast<double>(half.disk_bytes) / static_cast<double>(all.disk_bytes);
  EXPECT_LT(bytes, kept + 0.1);
  EXPECT_EQ(half.kv_tokens, "snapkv");
  EXPECT_EQ(half.kv_keep, 0.5);
}

TEST_F(TokenPolicyTest, EveryPolicyAnswersTheSameAfterARestart) {
  std::vector<std::string> answers;
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    const std::string name(policy->name());
    const RunResult ingested =
        Ingest(name, {"--kv-tokens", name, "--keep", "0.3", "--kv-codec", "rot4"});
    ASSERT_EQ(ingested.exit_code, cli::kExitOk) << name << ": " << ingested.err;
    EXPECT_EQ(Show(name).kept_layer_tokens < Show(name).layer_tokens,
              policy->further_codecs().empty())
        << name;
    answers.push_back(Answer(name));
  }
  server_->Kill();
  server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(Answer(std::string(AllTokenPolicies()[i]->name())), answers[i])
        << AllTokenPolicies()[i]->name();
  }
  EXPECT_EQ(server_->DocumentTokensPrefilled(), 0);
}

TEST_F(TokenPolicyTest, PoliciesWithSeveralCodecsKeepAllTokensInFewerBytes) {
  const auto bytes_per_token = [&](const std::string& name, std::vector<std::string> kv) {
    const RunResult ingested = Ingest(name, std::move(kv));
    EXPECT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
    const cli::ContextInfo info = Show(name);
    EXPECT_EQ(info.kept_layer_tokens, info.layer_tokens) << name;
    return static_cast<double>(info.disk_bytes) / static_cast<double>(info.tokens);
  };
  const double whole = bytes_per_token("int8", {"--kv-codec", "int8"});
  for (const std::string name : {"mikv", "qaq"}) {
    const auto kv = [&](const char* keep) -> std::vector<std::string> {
      return {"--kv-codec", "int8", "--kv-tokens", name, "--keep", keep};
    };
    const double most = bytes_per_token(name + "-most", kv("0.7"));
    const double few = bytes_per_token(name + "-few", kv("0.4"));
    EXPECT_LT(most, whole) << name;
    EXPECT_LT(few, 0.9 * most) << name;
    EXPECT_EQ(Show(name + "-few").kv_tokens, name);
    EXPECT_EQ(Show(name + "-few").kv_keep, 0.4);
    EXPECT_THAT(RunVarve({"contexts", "show", name + "-few", "--server", server_->url()}).out,
                HasSubstr("0.4 by " + name + " (100.0 % of all tokens and layers)"));
  }
}

// HTTP, without the command line's own checks.
TEST_F(TokenPolicyTest, ContextsThatKeepAllTokensAreMadeAndRefusedOverHttp) {
  const auto http = cli::HttpClient::Create(server_->url());
  ASSERT_OK(http);
  const auto create = [&](const std::string& name, const Json& kv) {
    const Json body = {{"name", name}, {"text", document_.text}, {"kv", kv}};
    const auto response =
        http->Send({.method = "POST", .target = "/v1/contexts", .body = body.dump()});
    EXPECT_OK(response);
    return *response;
  };
  for (const char* tokens : {"mikv", "qaq", "clusterkv"}) {
    const auto created = create(tokens, {{"codec", "int8"}, {"tokens", tokens}, {"keep", 0.25}});
    EXPECT_EQ(created.status, 202) << created.body;
    EXPECT_EQ(Json::parse(created.body).at("kv").at("tokens"), tokens);
    for (const double keep : {0.0, -0.5, 1.25}) {
      const auto refused = create("bad", {{"tokens", tokens}, {"keep", keep}});
      EXPECT_EQ(refused.status, 400) << refused.body;
      EXPECT_THAT(refused.body, HasSubstr("keep"));
    }
  }
  EXPECT_FALSE(server_->api().FindContext("bad").value().has_value());
  // The answer to a POST does not wait until the text is computed.
  for (const char* tokens : {"mikv", "qaq", "clusterkv"}) {
    for (int tries = 0; tries < 600 && Show(tokens).status != "ready"; ++tries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    EXPECT_EQ(Show(tokens).status, "ready");
    EXPECT_NE(Answer(tokens).find("content"), std::string::npos);
  }
}

TEST_F(TokenPolicyTest, RefusesWhatItCannotKeep) {
  const auto refused = [&](std::vector<std::string> kv, const char* message) {
    const RunResult result = Ingest("bad", std::move(kv));
    EXPECT_NE(result.exit_code, cli::kExitOk);
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_FALSE(server_->api().FindContext("bad").value().has_value());
  };
  refused({"--kv-tokens", "clusterkv", "--keep", "0"}, "above 0 and at most 1");
  refused({"--kv-tokens", "snapvk", "--keep", "0.5"}, "there are all, streaming");
  refused({"--kv-tokens", "h2o", "--keep", "0"}, "above 0 and at most 1");
  refused({"--kv-tokens", "mikv", "--keep", "0"}, "above 0 and at most 1");
  refused({"--kv-tokens", "qaq", "--keep", "0"}, "above 0 and at most 1");
  refused({"--keep", "0.5"}, "name the token policy");
  refused({"--kv-tokens", "h2o", "--keep", "1.5"}, "from 0 to 1");
}

}  // namespace
}  // namespace varve
