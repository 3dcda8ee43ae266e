// Requests that read some of their context's pages, through the command line and HTTP on the
// bundled model: answers come as with every page, fewer pages are read, a restart changes nothing.
#include <cmath>
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
  }
  void Ingest(std::vector<std::string> how) {
    std::vector<std::string> arguments = {
        "ingest", "--name", "doc", "--server", server_->url(), files_.File("doc.txt")};
    arguments.insert(arguments.end(), how.begin(), how.end());
    const RunResult ingested = RunVarve(arguments);
    ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  }
  Json Ask(const Fact& fact, bool every_page) {
    return Ask(fact, every_page ? Json{{"attention", "exact"}} : Json());
  }
  Json Ask(const Fact& fact, const Json& kv) {
    Json body = {{"model", *server_->api().ModelName()},
                 {"context", "doc"},
                 {"messages", {{{"role", "user"}, {"content", fact.question}}}},
                 {"temperature", 0},
                 {"max_tokens", 24},
                 {"logprobs", true}};
    if (!kv.is_null()) {
      body["kv"] = kv;
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
  Ingest({"--kv-tokens", "clusterkv", "--keep", "0.25"});
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

// On a context that was ingested without a thought of it.
TEST_F(PageSelectionE2eTest, SelectiveAttentionAnswersAsWellAndSaysWhatItsErrorIs) {
  Ingest({});
  int right = 0;
  int right_exactly = 0;
  double read = 0;
  double total = 0;
  Json first;
  for (int i = 0; i < kQuestions; ++i) {
    const Fact& fact = facts_[static_cast<size_t>(i)];
    right_exactly += IsRight(Ask(fact, Json()), fact) ? 1 : 0;
    const Json answer = Ask(fact, Json{{"attention", "select"}, {"budget_tokens", 4096}});
    right += IsRight(answer, fact) ? 1 : 0;
    first = first.is_null() ? answer : first;
    const Json& usage = answer.at("usage");
    EXPECT_TRUE(usage.at("attention_error_bound").is_null() ||
                usage.at("attention_error_bound").get<double>() > 0);
    EXPECT_GT(usage.at("missed_mass_estimate"), 0);
    EXPECT_LT(usage.at("missed_mass_estimate"), 1);
    read += usage.at("pages_read").get<double>();
    total += usage.at("pages_total").get<double>();
  }
  EXPECT_GE(right_exactly, kQuestions - 3);
  EXPECT_GE(right, right_exactly - 2);
  EXPECT_LT(read, 0.5 * total);
  EXPECT_EQ(Metric("varve_selective_pages_read_total"), read);
  EXPECT_EQ(*server_->api().ReadMetric("varve_attention_error_bound_count", ""), kQuestions);

  // An error that is allowed is kept; without a limit to what is read it always can be.
  const Json within = Ask(facts_[0], Json{{"attention", "select"}, {"epsilon", 0.3}});
  EXPECT_LE(within.at("usage").at("attention_error_bound"), 0.3 * std::sqrt(kWorkers));

  // A question is answered as before after a restart, by a sketch that is made anew.
  server_->Kill();
  server_ = std::make_unique<ServerProcess>(data_.path(), flags_);
  const Json again = Ask(facts_[0], Json{{"attention", "select"}, {"budget_tokens", 4096}});
  EXPECT_EQ(again.at("choices"), first.at("choices"));
  EXPECT_EQ(again.at("usage"), first.at("usage"));

  const RunResult asked = RunVarve({"ask",
                                    "--server",
                                    server_->url(),
                                    "--context",
                                    "doc",
                                    "--attention",
                                    "select",
                                    "--budget-tokens",
                                    "4096",
                                    "--usage",
                                    facts_[0].question});
  EXPECT_EQ(asked.exit_code, cli::kExitOk) << asked.err;
  EXPECT_THAT(asked.err, HasSubstr("pages read"));
  EXPECT_THAT(asked.err, HasSubstr("attention error at most"));
}

}  // namespace
}  // namespace varve
