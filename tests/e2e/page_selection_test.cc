// A context whose requests read a share of its pages, through the command line and HTTP on the
// bundled model: answers come as with every page, fewer pages are read, a restart changes nothing.
#include <regex>

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

constexpr int64_t kGlobalLayers = 2;  // of the bundled model
constexpr int64_t kWorkers = 2;
constexpr int kQuestions = 24;

struct Fact {
  std::string question;
  std::string value;
};

// What the document states, in its order.
std::vector<Fact> FactsOf(const std::string& text) {
  static const std::regex kFact("Note that (the passcode of the \\w+ \\w+) is (\\d+)\\.");
  std::vector<Fact> facts;
  for (std::sregex_iterator it(text.begin(), text.end(), kFact); it != std::sregex_iterator();
       ++it) {
    facts.push_back({"What is " + (*it)[1].str() + "?", (*it)[2].str()});
  }
  return facts;
}

class PageSelectionE2eTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(WriteFileAtomically(files_.File("doc.txt"), document_.text));
    server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
    const RunResult ingested = RunVarve({"ingest",
                                         "--name",
                                         "doc",
                                         "--kv-tokens",
                                         "clusterkv",
                                         "--keep",
                                         "0.25",
                                         "--server",
                                         server_->url(),
                                         files_.File("doc.txt")});
    ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  }
  Json Ask(const Fact& fact, bool every_page) {
    Json body = {{"model", *server_->api().ModelName()},
                 {"context", "doc"},
                 {"messages", {{{"role", "user"}, {"content", fact.question}}}},
                 {"temperature", 0},
                 {"max_tokens", 24},
                 {"logprobs", true}};
    if (every_page) {
      body["kv"] = {{"attention", "exact"}};
    }
    const auto http = cli::HttpClient::Create(server_->url());
    EXPECT_OK(http);
    const auto response =
        http->Send({.method = "POST", .target = "/v1/chat/completions", .body = body.dump()});
    EXPECT_OK(response);
    EXPECT_EQ(response->status, 200) << response->body;
    return Json::parse(response->body);
  }
  static bool IsRight(const Json& answer, const Fact& fact) {
    const auto text = answer.at("choices")[0].at("message").at("content").get<std::string>();
    return text.find(fact.value) != std::string::npos;
  }
  double Metric(const char* name) {
    double sum = 0;
    for (int64_t worker = 0; worker < kWorkers; ++worker) {
      const auto value =
          server_->api().ReadMetric(name, "worker=\"" + std::to_string(worker) + "\"");
      EXPECT_OK(value);
      sum += *value;
    }
    return sum;
  }

  const FactDocument document_ = MakeFactDocument(8, 900);
  const std::vector<Fact> facts_ = FactsOf(document_.text);
  const std::vector<std::string> flags_ = {"--workers", std::to_string(kWorkers)};
  TempDir files_;
  TempDir data_;
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(PageSelectionE2eTest, AQuarterOfThePagesAnswersAboutAsWellAndTheSameAfterARestart) {
  const auto context = server_->api().GetContext("doc");
  ASSERT_OK(context);
  EXPECT_EQ(context->kept_layer_tokens, context->layer_tokens) << "nothing is lost";
  const int64_t sealed = (context->tokens - 128) / 128;
  ASSERT_GT(sealed, 80);
  ASSERT_GE(std::ssize(facts_), kQuestions);
  EXPECT_THAT(RunVarve({"contexts", "show", "doc", "--server", server_->url()}).out,
              HasSubstr("0.25 by clusterkv (100.0 % of all tokens and layers)"));

  int right = 0;
  int right_exactly = 0;
  double read = 0;
  double total = 0;
  std::vector<Json> answers;
  for (int i = 0; i < kQuestions; ++i) {
    const Fact& fact = facts_[static_cast<size_t>(i)];
    const Json exact = Ask(fact, /*every_page=*/true);
    EXPECT_FALSE(exact.at("usage").contains("pages_read"));
    right_exactly += IsRight(exact, fact) ? 1 : 0;
    answers.push_back(Ask(fact, /*every_page=*/false));
    right += IsRight(answers.back(), fact) ? 1 : 0;
    const Json& usage = answers.back().at("usage");
    // The question takes one step, and each token but the last another.
    const int64_t steps = usage.at("completion_tokens");
    EXPECT_EQ(usage.at("pages_total"), steps * kGlobalLayers * sealed);
    // In each step and layer: the page of the sinks, and a share rounded up on each worker.
    EXPECT_LE(usage.at("pages_read").get<double>(),
              0.25 * usage.at("pages_total").get<double>() +
                  static_cast<double>(steps * kGlobalLayers * (1 + kWorkers)));
    EXPECT_GE(usage.at("pages_read").get<double>(), 0.25 * usage.at("pages_total").get<double>());
    read += usage.at("pages_read").get<double>();
    total += usage.at("pages_total").get<double>();
  }
  EXPECT_GE(right_exactly, kQuestions - 3);
  EXPECT_GE(right, right_exactly - 2);
  EXPECT_EQ(Metric("varve_selective_pages_read_total"), read);
  EXPECT_EQ(Metric("varve_selective_pages_offered_total"), total);

  server_->Kill();
  server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
  for (int i = 0; i < kQuestions; i += 5) {
    const Json again = Ask(facts_[static_cast<size_t>(i)], /*every_page=*/false);
    EXPECT_EQ(again.at("choices"), answers[static_cast<size_t>(i)].at("choices"));
    EXPECT_EQ(again.at("usage"), answers[static_cast<size_t>(i)].at("usage"));
  }
  EXPECT_EQ(server_->DocumentTokensPrefilled(), 0);
}

}  // namespace
}  // namespace varve
