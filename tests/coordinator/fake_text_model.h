// Bytes as tokens: token 65 is "A", 256 the BOS "<s>", 257 the end of text. A chat is rendered as
// "<s>role:content;...".
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "coordinator/text_model.h"
#include "tests/coordinator/fake_worker_group.h"

namespace varve {

// Holds bytes back until their code point is complete.
class FakeTextStream final : public TextStream {
 public:
  std::string Push(int32_t token) override {
    if (token >= 256) {
      return {};
    }
    held_ += static_cast<char>(token);
    const auto lead = static_cast<unsigned char>(held_.front());
    const size_t length = lead < 0x80 ? 1 : (lead < 0xE0 ? 2 : (lead < 0xF0 ? 3 : 4));
    return held_.size() >= length ? std::exchange(held_, {}) : std::string();
  }
  std::string Finish() override { return std::exchange(held_, {}).empty() ? "" : "\xEF\xBF\xBD"; }

 private:
  std::string held_;
};

class FakeTextModel : public TextModel {
 public:
  Result<std::vector<int32_t>> EncodeDocument(std::string_view piece,
                                              bool /*is_continuation*/) const override {
    if (piece.find("UNTOKENISABLE") != std::string_view::npos) {
      return Error{ErrorCode::kInternal, "the fake does not like this text"};
    }
    std::vector<int32_t> tokens;
    for (const char c : piece) {
      tokens.push_back(static_cast<unsigned char>(c));
    }
    return tokens;
  }
  Result<std::vector<int32_t>> EncodePrompt(std::string_view text,
                                            bool is_continuation) const override {
    std::vector<int32_t> tokens;
    if (text.substr(0, 3) == "<s>") {
      tokens.push_back(kFakeBos);
      text.remove_prefix(3);
    }
    const auto rest = EncodeDocument(text, is_continuation);
    tokens.insert(tokens.end(), rest->begin(), rest->end());
    return tokens;
  }
  // Before a blank if there is one within the limit.
  size_t SplitPoint(std::string_view text, size_t max_bytes) const override {
    if (text.size() <= max_bytes) {
      return text.size();
    }
    const size_t blank = text.rfind(' ', max_bytes);
    return blank == std::string_view::npos || blank == 0 ? max_bytes : blank;
  }
  std::unique_ptr<TextStream> NewStream() const override {
    return std::make_unique<FakeTextStream>();
  }
  std::string TokenText(int32_t token) const override {
    return token < 256 ? std::string(1, static_cast<char>(token)) : "<s>";
  }
  std::optional<int32_t> bos_id() const override { return kFakeBos; }
  std::optional<int32_t> context_bos_id() const override { return kFakeBos; }
  bool IsEos(int32_t token) const override { return token == kFakeEos; }
  int32_t vocab_size() const override { return kFakeVocab; }
  uint64_t content_hash() const override { return 0x70c; }
  Result<std::string> RenderChat(const ChatMessages& turns, bool is_continuation) const override {
    if (!has_chat_template) {
      return Error{ErrorCode::kUnsupported, "The model has no chat template."};
    }
    std::string text = is_continuation ? "" : "<s>";
    for (const ChatMessage& turn : turns) {
      text += turn.role + ":" + turn.content + ";";
    }
    return text;
  }

  bool has_chat_template = true;
};

}  // namespace varve
