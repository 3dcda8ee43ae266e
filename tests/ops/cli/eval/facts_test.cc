#include "ops/cli/eval/facts.h"

#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace varve::cli {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr std::string_view kText =
    "It rained all day. Nobody went out. The river rose by a foot.\n";

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

size_t Differences(const std::string& a, const std::string& b) {
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    count += a[i] != b[i] ? 1 : 0;
  }
  return count;
}

class Facts : public testing::TestWithParam<uint64_t> {
 protected:
  FactDocument document_ = MakeFactDocument(
      kText,
      {.per_task = kMaxFactsPerTask, .background_bytes = 40'000, .seed = GetParam()});

  std::vector<FactQuestion> OfTask(Task task) const {
    std::vector<FactQuestion> questions;
    for (const FactQuestion& question : document_.questions) {
      if (question.task == task) {
        questions.push_back(question);
      }
    }
    return questions;
  }
};

TEST_P(Facts, EveryKeyIsStatedOnceWithItsValue) {
  std::set<std::string> keys;
  EXPECT_EQ(document_.questions.size(), std::size(kTasks) * kMaxFactsPerTask);
  for (const FactQuestion& question : document_.questions) {
    for (const Turn& turn : question.turns) {
      EXPECT_TRUE(keys.insert(turn.key).second) << turn.key;
      EXPECT_EQ(Count(document_.text, turn.key + " is "), 1U) << turn.key;
      EXPECT_THAT(document_.text, HasSubstr(turn.key + " is " + turn.value + "."));
    }
  }
  EXPECT_GE(document_.text.size(), 40'000U);
}

TEST_P(Facts, NeedlesShareNoNoun) {
  std::set<std::string> nouns;
  for (const FactQuestion& question : OfTask(Task::kNeedle)) {
    const std::string& key = question.turns[0].key;
    EXPECT_TRUE(nouns.insert(key.substr(key.rfind(' '))).second) << key;
  }
}

TEST_P(Facts, MostMultikeysHaveANeighbourOneCharacterAway) {
  const auto questions = OfTask(Task::kMultikey);
  size_t with_neighbour = 0;
  for (const FactQuestion& question : questions) {
    with_neighbour +=
        std::any_of(questions.begin(), questions.end(), [&](const FactQuestion& other) {
          const std::string& a = question.turns[0].key;
          const std::string& b = other.turns[0].key;
          return a.size() == b.size() && Differences(a, b) == 1;
        });
  }
  EXPECT_GE(with_neighbour, questions.size() * 9 / 10);
}

TEST_P(Facts, LinesAscendInOnePlace) {
  size_t place = 0;
  size_t first = 0;
  std::string last;
  for (const FactQuestion& question : OfTask(Task::kLines)) {
    const Turn& turn = question.turns[0];
    EXPECT_GT(turn.key, last);
    last = turn.key;
    const size_t found = document_.text.find(turn.key + " is ");
    EXPECT_GT(found, place);
    first = first == 0 ? found : first;
    place = found;
  }
  EXPECT_LT(place - first, kMaxFactsPerTask * 60);  // nothing else in between
}

TEST_P(Facts, TrackingAsksForThePersonAndThenForTheirBadge) {
  for (const FactQuestion& question : OfTask(Task::kTracking)) {
    ASSERT_EQ(question.turns.size(), 2U);
    EXPECT_EQ(question.turns[1].key, "the badge of " + question.turns[0].value);
    EXPECT_THAT(QuestionOf(question.turns[0]), StartsWith("Who is the "));
    EXPECT_THAT(QuestionOf(question.turns[1]), StartsWith("What is the badge of "));
  }
}

TEST_P(Facts, SameSeedSameDocument) {
  const FactDocumentOptions options{.per_task = 5, .background_bytes = 500, .seed = GetParam()};
  EXPECT_EQ(MakeFactDocument(kText, options).text, MakeFactDocument(kText, options).text);
  FactDocumentOptions other = options;
  other.seed += 1000;
  EXPECT_NE(MakeFactDocument(kText, options).text, MakeFactDocument(kText, other).text);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Facts, testing::Values(1, 2, 77, 4096));

TEST(FactBackground, IsNeverCutInsideACodePoint) {
  // Three bytes each: two of three places to begin or end are inside one.
  std::string text;
  for (int i = 0; i < 50; ++i) {
    text += "\u20ac";
  }
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::string made =
        MakeFactDocument(text, {.per_task = 1, .background_bytes = 40 + seed, .seed = seed}).text;
    const auto is_high = [](char c) { return static_cast<unsigned char>(c) >= 0x80U; };
    const auto high_bytes = std::count_if(made.begin(), made.end(), is_high);
    EXPECT_GT(high_bytes, 30) << seed;
    EXPECT_EQ(static_cast<size_t>(high_bytes), 3 * Count(made, "\u20ac")) << seed;
  }
}

}  // namespace
}  // namespace varve::cli
