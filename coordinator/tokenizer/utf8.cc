#include "coordinator/tokenizer/utf8.h"

#include <cstring>

#include "proto/base/check.h"

namespace varve {
namespace {

uint8_t ByteAt(std::string_view bytes, size_t index) {
  return static_cast<uint8_t>(bytes[index]);
}

// The shape that a lead byte announces. `second_min`/`second_max` exclude overlong forms,
// surrogates and what is beyond U+10FFFF; the bytes after the second may be any continuation.
struct LeadByte {
  size_t length = 0;  // 0: no sequence starts with this byte
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

LeadByte ClassifyLead(uint8_t lead) {
  if (lead < 0x80) {
    return {1, 0, 0};
  }
  if (lead < 0xC2) {
    return {};
  }
  if (lead < 0xE0) {
    return {2};
  }
  if (lead == 0xE0) {
    return {3, 0xA0, 0xBF};
  }
  if (lead == 0xED) {
    return {3, 0x80, 0x9F};
  }
  if (lead < 0xF0) {
    return {3};
  }
  if (lead == 0xF0) {
    return {4, 0x90, 0xBF};
  }
  if (lead < 0xF4) {
    return {4};
  }
  if (lead == 0xF4) {
    return {4, 0x80, 0x8F};
  }
  return {};
}

// Length of the ASCII prefix, eight bytes at a time.
size_t AsciiPrefix(std::string_view bytes, size_t position) {
  while (position + 8 <= bytes.size()) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + position, 8);
    if ((word & 0x8080808080808080u) != 0) {
      break;
    }
    position += 8;
  }
  while (position < bytes.size() && ByteAt(bytes, position) < 0x80) {
    ++position;
  }
  return position;
}

}  // namespace

Utf8Unit ReadUtf8Unit(std::string_view bytes) {
  VARVE_DCHECK(!bytes.empty());
  const uint8_t lead = ByteAt(bytes, 0);
  const LeadByte shape = ClassifyLead(lead);
  if (shape.length == 0) {
    return {Utf8Unit::Kind::kInvalid, 1, 0};
  }
  if (shape.length == 1) {
    return {Utf8Unit::Kind::kCodePoint, 1, lead};
  }
  char32_t code_point = lead & (0x7Fu >> shape.length);
  for (size_t i = 1; i < shape.length; ++i) {
    if (i == bytes.size()) {
      return {Utf8Unit::Kind::kIncomplete, i, 0};
    }
    const uint8_t byte = ByteAt(bytes, i);
    const uint8_t min = i == 1 ? shape.second_min : 0x80;
    const uint8_t max = i == 1 ? shape.second_max : 0xBF;
    if (byte < min || byte > max) {
      return {Utf8Unit::Kind::kInvalid, i, 0};
    }
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Unit::Kind::kCodePoint, shape.length, code_point};
}

bool IsValidUtf8(std::string_view bytes) {
  size_t position = AsciiPrefix(bytes, 0);
  while (position < bytes.size()) {
    const Utf8Unit unit = ReadUtf8Unit(bytes.substr(position));
    if (unit.kind != Utf8Unit::Kind::kCodePoint) {
      return false;
    }
    position = AsciiPrefix(bytes, position + unit.length);
  }
  return true;
}

char32_t NextCodePoint(std::string_view text, size_t* position) {
  const uint8_t lead = ByteAt(text, *position);
  if (lead < 0x80) {
    ++*position;
    return lead;
  }
  const Utf8Unit unit = ReadUtf8Unit(text.substr(*position));
  *position += unit.length;
  return unit.code_point;
}

char32_t PreviousCodePoint(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && IsUtf8Continuation(text[start])) {
    --start;
  }
  return NextCodePoint(text, &start);
}

void AppendLossy(std::string_view bytes, std::string* out) {
  size_t position = 0;
  while (position < bytes.size()) {
    const size_t ascii_end = AsciiPrefix(bytes, position);
    out->append(bytes.substr(position, ascii_end - position));
    position = ascii_end;
    if (position == bytes.size()) {
      break;
    }
    const Utf8Unit unit = ReadUtf8Unit(bytes.substr(position));
    const bool good = unit.kind == Utf8Unit::Kind::kCodePoint;
    out->append(good ? bytes.substr(position, unit.length) : kReplacementCharacter);
    position += unit.length;
  }
}

void AppendUtf8(char32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
    return;
  }
  const int num_continuations = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
  const uint32_t lead_mark = num_continuations == 1 ? 0xC0 : num_continuations == 2 ? 0xE0 : 0xF0;
  out->push_back(static_cast<char>(lead_mark | (code_point >> (6 * num_continuations))));
  for (int i = num_continuations - 1; i >= 0; --i) {
    out->push_back(static_cast<char>(0x80 | ((code_point >> (6 * i)) & 0x3F)));
  }
}

}  // namespace varve
