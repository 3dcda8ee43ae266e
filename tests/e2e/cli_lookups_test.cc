// Lookups of `varve bench context` against a server whose answers are known.
#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/fake_server.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/bench/lookups.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

using Json = nlohmann::json;

std::string Event(const Json& data) {
  return "data: " + data.dump() + "\n\n";
}

std::string Piece(const std::string& text) {
  return Event({{"choices", {{{"delta", {{"content", text}}}}}}});
}

const std::vector<FactQuestion> kQuestions = {
    {Task::kNeedle, {{"the code of the red door", "12345"}}},
    {Task::kTracking, {{"the pilot of Dover", "Ada Crane"}, {"the badge of Ada Crane", "67890"}}}};

TEST(Lookups, AskTheLastTurnBehindTheOthersAndCountRightAnswersAndSteps) {
  std::vector<Json> asked;
  FakeServer server([&](const FakeRequest& request) {
    if (request.target == "/v1/models") {
      return FakeResponse{.body = R"({"data": [{"id": "m"}]})"};
    }
    asked.push_back(Json::parse(request.body));
    const Json usage = {{"prompt_tokens", 9},
                        {"completion_tokens", 3},
                        {"pages_read", 3},
                        {"pages_total", 40},
                        {"attention_error_bound", asked.size() == 1 ? Json(0.25) : Json()},
                        {"missed_mass_estimate", 0.1}};
    const std::string value = asked.size() == 1 ? "12345." : "67891.";
    return FakeResponse{
        .pieces = {Piece(asked.size() == 1 ? "the code of the red door is " : "the badge is "),
                   Piece(value),
                   Event({{"choices", Json::array()}, {"usage", usage}}),
                   "data: [DONE]\n\n"}};
  });
  const auto client = ApiClient::Create(server.url());
  ASSERT_OK(client);
  int answers = 0;
  const auto results = AskLookups(
      *client, kQuestions, {.context = "c", .attention = "select", .budget_tokens = 512}, [&] {
        ++answers;
      });
  ASSERT_OK(results);
  EXPECT_EQ(answers, 2);
  EXPECT_EQ(results->asked, 2);
  EXPECT_EQ(results->right, 1);  // the other one is wrong in its last digit
  EXPECT_EQ(results->gaps_s.size(), 2U);
  EXPECT_EQ(results->pages_read, 6);
  EXPECT_EQ(results->pages_total, 80);
  ASSERT_EQ(results->error_bounds.size(), 2U);
  EXPECT_EQ(results->error_bounds[0], 0.25);
  EXPECT_TRUE(std::isinf(results->error_bounds[1]));

  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[0].at("messages").size(), 1U);
  EXPECT_EQ(asked[0].at("messages")[0].at("content"), "What is the code of the red door?");
  EXPECT_EQ(asked[0].at("kv"), Json::parse(R"({"attention": "select", "budget_tokens": 512})"));
  ASSERT_EQ(asked[1].at("messages").size(), 3U);
  EXPECT_EQ(asked[1].at("messages")[0].at("content"), "Who is the pilot of Dover?");
  EXPECT_EQ(asked[1].at("messages")[1].at("content"), "the pilot of Dover is Ada Crane.");
  EXPECT_EQ(asked[1].at("messages")[2].at("content"), "What is the badge of Ada Crane?");
}

TEST(Lookups, AFailedAnswerEndsThem) {
  FakeServer server([&](const FakeRequest& request) {
    return request.target == "/v1/models" ? FakeResponse{.body = R"({"data": [{"id": "m"}]})"}
                                          : FakeResponse{.status = 503, .body = "{}"};
  });
  const auto client = ApiClient::Create(server.url());
  ASSERT_OK(client);
  EXPECT_ERROR(AskLookups(*client, kQuestions, {.context = "c"}, [] {}), ErrorCode::kUnavailable);
}

TEST(Lookups, QuantilesAreOfTheSortedValues) {
  EXPECT_EQ(Quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(Quantile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.9), 10);
  EXPECT_EQ(Quantile({5, 4}, 1.0), 5);
  EXPECT_EQ(Quantile({5, 4}, 0.0), 4);
}

}  // namespace
}  // namespace varve::cli
