#include "coordinator/text_model.h"

#include <algorithm>
#include <utility>

#include "coordinator/tokenizer/detokenizer.h"
#include "coordinator/tokenizer/text_pieces.h"
#include "coordinator/tokenizer/tokenizer.h"
#include "proto/base/log.h"

namespace varve {
namespace {

class DetokenizerStream final : public TextStream {
 public:
  explicit DetokenizerStream(std::shared_ptr<const Tokenizer> tokenizer)
      : detokenizer_(std::move(tokenizer), /*skip_special=*/true, /*is_continuation=*/true) {}

  std::string Push(int32_t token) override { return detokenizer_.Push(token); }
  std::string Finish() override { return detokenizer_.Flush(); }

 private:
  StreamingDetokenizer detokenizer_;
};

class DirectoryTextModel final : public TextModel {
 public:
  DirectoryTextModel(std::shared_ptr<const Tokenizer> tokenizer,
                     Result<ChatTemplate> chat_template,
                     const Clock* clock)
      : tokenizer_(std::move(tokenizer)),
        chat_template_(std::move(chat_template)),
        clock_(clock),
        context_bos_id_(tokenizer_->bos_id()) {
    if (!context_bos_id_ && TemplateWritesBos()) {
      context_bos_id_ = tokenizer_->TokenToId(tokenizer_->bos_token());
    }
  }

  Result<std::vector<int32_t>> EncodeDocument(std::string_view piece,
                                              bool is_continuation) const override {
    return tokenizer_->Encode(piece, {.parse_special = false, .is_continuation = is_continuation});
  }
  Result<std::vector<int32_t>> EncodePrompt(std::string_view text,
                                            bool is_continuation) const override {
    return tokenizer_->Encode(text, {.parse_special = true, .is_continuation = is_continuation});
  }
  size_t SplitPoint(std::string_view text, size_t max_bytes) const override {
    return SafeSplit(text, max_bytes);
  }

  std::unique_ptr<TextStream> NewStream() const override {
    return std::make_unique<DetokenizerStream>(tokenizer_);
  }
  std::string TokenText(int32_t token) const override {
    StreamingDetokenizer detokenizer(tokenizer_, /*skip_special=*/false, /*is_continuation=*/true);
    std::string text = detokenizer.Push(token);
    return text + detokenizer.Flush();
  }

  std::optional<int32_t> bos_id() const override { return tokenizer_->bos_id(); }
  std::optional<int32_t> context_bos_id() const override { return context_bos_id_; }
  bool IsEos(int32_t token) const override {
    const std::vector<int32_t>& eos_ids = tokenizer_->eos_ids();
    return std::find(eos_ids.begin(), eos_ids.end(), token) != eos_ids.end();
  }
  int32_t vocab_size() const override { return tokenizer_->vocab_size(); }
  uint64_t content_hash() const override { return tokenizer_->content_hash(); }

  Result<std::string> RenderChat(const ChatMessages& messages,
                                 bool is_continuation) const override {
    if (!chat_template_) {
      return chat_template_.error();
    }
    // A template that asks for the BOS gets none behind a context. Where the marker of a turn is
    // also called the BOS (ChatML models), the template writes it by itself, and it stays.
    const std::string& bos = tokenizer_->bos_token();
    VARVE_TRY(std::string text, Render(messages, is_continuation ? std::string() : bos));
    if (is_continuation && tokenizer_->bos_id() && !bos.empty() && text.starts_with(bos)) {
      text.erase(0, bos.size());
    }
    return text;
  }

 private:
  Result<std::string> Render(const ChatMessages& messages, const std::string& bos_token) const {
    return chat_template_->Render(messages,
                                  {.bos_token = bos_token,
                                   .eos_token = tokenizer_->eos_token(),
                                   .now_unix_s = clock_->UnixTimeS()});
  }

  // Whether chats begin with the BOS because the template asks for it.
  bool TemplateWritesBos() const {
    const std::string& bos = tokenizer_->bos_token();
    if (!chat_template_ || bos.empty()) {
      return false;
    }
    const ChatMessages probe = {{"user", "x"}};
    const Result<std::string> with = Render(probe, bos);
    const Result<std::string> without = Render(probe, "");
    return with && without && *with == bos + *without;
  }

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const Result<ChatTemplate> chat_template_;
  const Clock* const clock_;
  std::optional<int32_t> context_bos_id_;
};

Result<ChatTemplate> ParseChatTemplate(const std::string& source) {
  if (source.empty()) {
    return Error{ErrorCode::kUnsupported,
                 "The model has no chat template. Use /v1/completions, or add a "
                 "chat_template.jinja to the model directory."};
  }
  Result<ChatTemplate> parsed = ChatTemplate::Parse(source);
  if (!parsed) {
    SPDLOG_WARN("chat is not available: {}", parsed.error().ToString());
    return Error{ErrorCode::kUnsupported,
                 "The model's chat template cannot be used: " + parsed.error().message};
  }
  return parsed;
}

}  // namespace

Result<std::unique_ptr<TextModel>> LoadTextModel(const std::string& model_dir, const Clock* clock) {
  VARVE_TRY(std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::Load(model_dir));
  Result<ChatTemplate> chat_template = ParseChatTemplate(tokenizer->chat_template());
  return std::unique_ptr<TextModel>(
      std::make_unique<DirectoryTextModel>(std::move(tokenizer), std::move(chat_template), clock));
}

}  // namespace varve
