#include "coordinator/tokenizer/decoder.h"

#include "coordinator/tokenizer/byte_level.h"

namespace varve {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  if (c >= 'A' && c <= 'F') {
    return c - 'A' + 10;
  }
  if (c >= 'a' && c <= 'f') {
    return c - 'a' + 10;
  }
  return -1;
}

// "<0x41>" -> 0x41, anything else -> -1.
int ByteOfFallbackToken(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') {
    return -1;
  }
  const int high = HexDigit(text[3]);
  const int low = HexDigit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace

Decoder::Decoder(DecoderSpec spec,
                 const std::vector<std::string>& token_text,
                 const std::vector<AddedToken>& added_tokens)
    : spec_(std::move(spec)) {
  bytes_.reserve(token_text.size());
  for (const std::string& text : token_text) {
    bytes_.push_back(Convert(text));
  }
  if (spec_.unk_id != kNoToken) {
    bytes_[static_cast<size_t>(spec_.unk_id)] = spec_.unk_surface;
  }
  if (!spec_.byte_level) {
    return;
  }
  for (const AddedToken& token : added_tokens) {
    bytes_[static_cast<size_t>(token.id)] = token.content;
  }
}

std::string Decoder::Convert(std::string_view token_text) const {
  if (spec_.byte_level) {
    auto bytes = BytesOfByteLevelText(token_text);
    return bytes ? std::move(*bytes) : std::string(token_text);
  }
  if (spec_.byte_fallback) {
    if (const int byte = ByteOfFallbackToken(token_text); byte >= 0) {
      return {static_cast<char>(byte)};
    }
  }
  std::string text(token_text);
  for (const ReplaceRule& rule : spec_.replacements) {
    std::string replaced;
    AppendReplaced(text, rule.from, rule.to, &replaced);
    text = std::move(replaced);
  }
  return text;
}

std::string_view Decoder::BytesOf(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) {
    return {};
  }
  return bytes_[static_cast<size_t>(id)];
}

std::string Decoder::FirstBytesOf(int32_t id, std::string_view token_text) const {
  if (spec_.first_token_drops.empty()) {
    return std::string(BytesOf(id));
  }
  std::string kept;
  AppendReplaced(token_text, spec_.first_token_drops, "", &kept);
  return Convert(kept);
}

}  // namespace varve
