// Every kind of tokenizer gives the ids, and the text, that its reference library gives.
#include "coordinator/tokenizer/detokenizer.h"
#include "coordinator/tokenizer/utf8.h"
#include "tests/coordinator/tokenizer/golden_vectors.h"

namespace varve {
namespace {

using Ids = std::vector<int32_t>;

class GoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    tokenizer_ = LoadTokenizer(GoldenDir(GetParam()));
    ASSERT_NE(tokenizer_, nullptr);
    vectors_ = nlohmann::json::parse(ReadAll(GoldenDir(GetParam()) + "/vectors.json"));
    ASSERT_GT(vectors_.size(), 90u);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  nlohmann::json vectors_;
};

TEST_P(GoldenTest, EncodesLikeTheReference) {
  for (const auto& vector : vectors_) {
    const auto text = vector["text"].get<std::string>();
    EXPECT_EQ(tokenizer_->Encode(text), vector["ids"].get<Ids>()) << vector["text"];
    if (!vector.contains("ids_special")) {
      continue;
    }
    EXPECT_EQ(tokenizer_->Encode(text, {.parse_special = true}), vector["ids_special"].get<Ids>())
        << vector["text"];
  }
}

TEST_P(GoldenTest, DecodesLikeTheReference) {
  for (const auto& vector : vectors_) {
    if (!vector.contains("decoded_skip")) {
      continue;
    }
    const bool has_special = vector.contains("ids_special");
    const Ids ids = vector[has_special ? "ids_special" : "ids"].get<Ids>();
    EXPECT_EQ(tokenizer_->Decode(ids, true), vector["decoded_skip"].get<std::string>())
        << vector["text"];
    if (!has_special) {
      continue;
    }
    EXPECT_EQ(tokenizer_->Decode(ids, false), vector["decoded"].get<std::string>())
        << vector["text"];
  }
}

TEST_P(GoldenTest, StreamsWhatItDecodesInWholeCodePoints) {
  for (const auto& vector : vectors_) {
    const Ids ids = vector["ids"].get<Ids>();
    StreamingDetokenizer detokenizer(tokenizer_, false);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string part = detokenizer.Push(id);
      EXPECT_TRUE(IsValidUtf8(part)) << vector["text"];
      streamed += part;
    }
    streamed += detokenizer.Flush();
    EXPECT_EQ(streamed, tokenizer_->Decode(ids, false)) << vector["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, GoldenTest, testing::ValuesIn(kGoldenKinds), [](const auto& info) {
  return std::string(info.param);
});

}  // namespace
}  // namespace varve
