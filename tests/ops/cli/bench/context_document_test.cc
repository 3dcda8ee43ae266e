#include "ops/cli/bench/context_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

constexpr std::string_view kText =
    "It rained all day. Nobody went out. The river rose by a foot.\n";

// A token for every four bytes.
Result<int64_t> Count(std::string_view text) {
  return static_cast<int64_t>(text.size() / 4);
}

Result<FactDocument> Make(int64_t tokens, int64_t questions, uint64_t seed = 1) {
  return MakeContextDocument(
      kText, {.tokens = tokens, .questions = questions, .seed = seed}, Count);
}

// A context that was ingested once is found again by the bytes of its text.
TEST(ContextDocument, IsTheFactDocumentOfTheBackgroundThatIsMissing) {
  const FactDocumentOptions facts{.per_task = 3, .background_bytes = 0, .seed = 1};
  const int64_t fact_tokens = *Count(MakeFactDocument(kText, facts).text);
  const double bytes_per_token = static_cast<double>(kText.size()) / (kText.size() / 4);
  FactDocumentOptions whole = facts;
  whole.background_bytes =
      static_cast<size_t>(static_cast<double>(5000 - fact_tokens) * bytes_per_token);
  const Result<FactDocument> document = Make(5000, 12);
  ASSERT_OK(document);
  EXPECT_EQ(document->text, MakeFactDocument(kText, whole).text);
  EXPECT_EQ(document->questions.size(), 12U);
}

TEST(ContextDocument, HasAboutTheTokensThatWereAskedFor) {
  for (const int64_t tokens : {2000, 20'000, 200'000}) {
    const Result<FactDocument> document = Make(tokens, 40);
    ASSERT_OK(document);
    EXPECT_NEAR(static_cast<double>(*Count(document->text)),
                static_cast<double>(tokens),
                0.05 * static_cast<double>(tokens));
  }
}

TEST(ContextDocument, SaysWhatCannotBeMade) {
  const auto message = [](const Result<FactDocument>& result) {
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    return result.error().message;
  };
  for (const int64_t questions : {0, 3, 10, 244}) {
    EXPECT_THAT(message(Make(100'000, questions)), testing::HasSubstr("a multiple of 4"));
  }
  EXPECT_THAT(message(Make(10, 4)), testing::HasSubstr("10 tokens are too few"));
  EXPECT_THAT(message(MakeContextDocument("", {.tokens = 1000, .questions = 4}, Count)),
              testing::HasSubstr("empty"));
}

}  // namespace
}  // namespace varve::cli
