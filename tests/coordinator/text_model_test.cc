#include "coordinator/text_model.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {
namespace {

// A copy of a golden tokenizer's directory, with a tokenizer_config.json of the test's own.
class ModelDir {
 public:
  explicit ModelDir(const std::string& golden, const std::string& config) {
    const std::string source = std::string(VARVE_SOURCE_DIR) + "/tests/golden/tokenizers/" + golden;
    std::filesystem::copy(source, dir_.path(), std::filesystem::copy_options::recursive);
    std::filesystem::remove(dir_.File("tokenizer_config.json"));
    std::ofstream(dir_.File("tokenizer_config.json")) << config;
  }
  Result<std::unique_ptr<TextModel>> Load() const {
    return LoadTextModel(dir_.path(), &SystemClock());
  }

 private:
  TempDir dir_;
};

TEST(TextModel, GoesOnBehindAContextWithoutABos) {
  const ModelDir dir("llama3", R"({"bos_token":"<s>","chat_template":
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"})");
  auto model = dir.Load();
  ASSERT_OK(model);
  const ChatMessages messages = {{"user", "hi"}};
  EXPECT_EQ(*(*model)->RenderChat(messages, /*is_continuation=*/false), "<s>[user]hi");
  EXPECT_EQ(*(*model)->RenderChat(messages, /*is_continuation=*/true), "[user]hi");
}

TEST(TextModel, BeginsAContextWithTheBosOfTheTemplate) {
  const ModelDir dir("llama3", R"({"bos_token":"<s>","add_bos_token":false,"chat_template":
    "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"})");
  auto model = dir.Load();
  ASSERT_OK(model);
  EXPECT_FALSE((*model)->bos_id().has_value());
  EXPECT_EQ((*model)->EncodePrompt("<s>", true)->at(0), (*model)->context_bos_id());
}

TEST(TextModel, ATurnMarkerThatIsCalledBosStays) {
  const ModelDir dir("smollm", R"({"bos_token":"<|im_start|>","chat_template":
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content }}{% endfor %}"})");
  auto model = dir.Load();
  ASSERT_OK(model);
  EXPECT_EQ(*(*model)->RenderChat({{"user", "hi"}}, true), "<|im_start|>user hi");
  EXPECT_FALSE((*model)->context_bos_id().has_value());
}

TEST(TextModel, ABosThatTheTemplateSpellsOutIsLeftOut) {
  const ModelDir dir("llama3", R"({"bos_token":"<s>","add_bos_token":true,"chat_template":
    "{{ '<s>' }}{% for m in messages %}{{ m.content }}{% endfor %}"})");
  auto model = dir.Load();
  ASSERT_OK(model);
  EXPECT_EQ(*(*model)->RenderChat({{"user", "hi"}}, true), "hi");
  EXPECT_EQ((*model)->bos_id(), (*model)->context_bos_id());
}

TEST(TextModel, DocumentsCannotSpeakAsSomebodyElse) {
  const ModelDir dir("llama3", R"({"bos_token":"<s>"})");
  auto model = dir.Load();
  ASSERT_OK(model);
  const std::string text = "<s>";
  const auto prompt = *(*model)->EncodePrompt(text, true);
  EXPECT_EQ(prompt.size(), 1U);
  EXPECT_GT((*model)->EncodeDocument(text, true)->size(), 1U);
}

TEST(TextModel, StreamsWhatItEncoded) {
  for (const char* golden : {"llama3", "llama2"}) {
    const ModelDir dir(golden, "{}");
    auto model = dir.Load();
    ASSERT_OK(model);
    const std::string text = " The caf\xC3\xA9 is open.";
    std::string streamed;
    auto stream = (*model)->NewStream();
    const auto tokens = (*model)->EncodeDocument(text, /*is_continuation=*/true);
    for (const int32_t token : *tokens) {
      streamed += stream->Push(token);
    }
    EXPECT_EQ(streamed + stream->Finish(), text) << golden;
    EXPECT_GT((*model)->vocab_size(), 0);
    EXPECT_EQ((*model)->SplitPoint("one two", 5), 3U);
  }
}

TEST(TextModel, SaysWhyThereIsNoChat) {
  const ModelDir without("llama3", "{}");
  auto model = without.Load();
  ASSERT_OK(model);
  auto refused = (*model)->RenderChat({{"user", "hi"}}, false);
  ASSERT_ERROR(refused, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("no chat template"));
  const ModelDir broken("llama3", R"({"chat_template":"{% if %}"})");
  model = broken.Load();
  ASSERT_OK(model);
  EXPECT_ERROR((*model)->RenderChat({{"user", "hi"}}, false), ErrorCode::kUnsupported);
}

TEST(TextModel, NeedsATokenizer) {
  const TempDir empty;
  EXPECT_FALSE(LoadTextModel(empty.path(), &SystemClock()).has_value());
}

}  // namespace
}  // namespace varve
