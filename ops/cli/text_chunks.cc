#include "ops/cli/text_chunks.h"

#include <fmt/format.h>

#include "proto/base/file.h"

namespace varve::cli {
namespace {

bool IsContinuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// Bytes of the code point that begins at `at`; 0 if there is no valid one.
size_t CodePointBytes(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    return 1;
  }
  const size_t length = lead >= 0xF0 ? 4 : (lead >= 0xE0 ? 3 : 2);
  if (lead < 0xC2 || lead > 0xF4 || text.size() - at < length) {
    return 0;
  }
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[at + i])) {
      return 0;
    }
  }
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  const bool bad = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) >= 0xA0) ||
                   (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) >= 0x90);
  return bad ? 0 : length;
}

// Bytes of the first piece of `text`.
size_t FirstChunkBytes(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) {
    return text.size();
  }
  const std::string_view head = text.substr(0, max_bytes);
  const size_t line = head.rfind('\n');
  if (line != std::string_view::npos) {
    return line + 1;
  }
  const size_t space = head.rfind(' ');
  if (space != std::string_view::npos) {
    return space + 1;
  }
  size_t end = max_bytes;
  while (end > 1 && IsContinuation(text[end])) {
    --end;
  }
  return end;
}

}  // namespace

size_t ChunkEnd(std::string_view text, size_t from, size_t max_bytes) {
  size_t end = 0;
  do {
    end += FirstChunkBytes(text.substr(end), max_bytes);
  } while (end <= from && end < text.size());
  return end;
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = CodePointBytes(text, at);
    if (length == 0) {
      return at;
    }
    at += length;
  }
  return std::nullopt;
}

Result<std::string> ReadTexts(const std::vector<std::string>& files) {
  std::string all;
  for (const std::string& file : files) {
    VARVE_TRY(std::string text, ReadFile(file == "-" ? "/dev/stdin" : file));
    if (const auto invalid = FindInvalidUtf8(text)) {
      return Error{
          ErrorCode::kInvalidArgument,
          fmt::format("{} is not UTF-8 text (byte {}); convert it first, for example with iconv",
                      file,
                      *invalid)};
    }
    if (!all.empty() && all.back() != '\n') {
      all.push_back('\n');
    }
    if (all.empty()) {
      all = std::move(text);
    } else {
      all += text;
    }
  }
  if (all.empty()) {
    return Error{ErrorCode::kInvalidArgument, "there is no text to ingest: the input is empty"};
  }
  return all;
}

}  // namespace varve::cli
