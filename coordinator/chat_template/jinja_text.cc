#include "coordinator/chat_template/jinja_text.h"

#include <algorithm>

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include "coordinator/tokenizer/utf8.h"

namespace varve::jinja {
namespace {

// str.isspace: Unicode white space and the four information separators.
bool IsPythonSpace(char32_t c) {
  return (c >= 0x1C && c <= 0x1F) || u_isUWhiteSpace(static_cast<UChar32>(c)) != 0;
}

bool IsStripped(char32_t c, std::string_view characters) {
  if (characters.empty()) {
    return IsPythonSpace(c);
  }
  for (size_t position = 0; position < characters.size();) {
    if (NextCodePoint(characters, &position) == c) {
      return true;
    }
  }
  return false;
}

enum class LetterCase { kTitle, kCapitalized };

// Character by character; letters whose other case is several letters stay as they are.
std::string Recase(std::string_view text, LetterCase wanted) {
  std::string out;
  out.reserve(text.size());
  bool in_word = false;
  for (size_t position = 0; position < text.size();) {
    const auto c = static_cast<UChar32>(NextCodePoint(text, &position));
    const UChar32 recased = in_word ? u_tolower(c) : u_totitle(c);
    AppendUtf8(static_cast<char32_t>(recased), &out);
    in_word = wanted == LetterCase::kCapitalized || u_isUAlphabetic(c) != 0;
  }
  return out;
}

}  // namespace

std::string_view Strip(std::string_view text, std::string_view characters, Side side) {
  size_t begin = 0;
  while (side != Side::kRight && begin < text.size()) {
    size_t next = begin;
    if (!IsStripped(NextCodePoint(text, &next), characters)) {
      break;
    }
    begin = next;
  }
  text.remove_prefix(begin);
  while (side != Side::kLeft && !text.empty()) {
    if (!IsStripped(PreviousCodePoint(text, text.size()), characters)) {
      break;
    }
    do {
      text.remove_suffix(1);
    } while (!text.empty() && IsUtf8Continuation(text.data()[text.size()]));
  }
  return text;
}

size_t CountCodePoints(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char byte) { return !IsUtf8Continuation(byte); }));
}

std::vector<std::string_view> CodePoints(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    (void)NextCodePoint(text, &position);
    characters.push_back(text.substr(begin, position - begin));
  }
  return characters;
}

std::string ToUpper(std::string_view text) {
  std::string out;
  icu::UnicodeString::fromUTF8({text.data(), static_cast<int32_t>(text.size())})
      .toUpper(icu::Locale::getRoot())
      .toUTF8String(out);
  return out;
}

std::string ToLower(std::string_view text) {
  std::string out;
  icu::UnicodeString::fromUTF8({text.data(), static_cast<int32_t>(text.size())})
      .toLower(icu::Locale::getRoot())
      .toUTF8String(out);
  return out;
}

std::string ToTitle(std::string_view text) {
  return Recase(text, LetterCase::kTitle);
}
std::string ToCapitalized(std::string_view text) {
  return Recase(text, LetterCase::kCapitalized);
}

std::vector<std::string_view> Split(std::string_view text,
                                    std::string_view separator,
                                    int64_t max_splits) {
  std::vector<std::string_view> parts;
  if (!separator.empty()) {
    size_t begin = 0;
    for (size_t found = text.find(separator); found != std::string_view::npos && max_splits-- != 0;
         found = text.find(separator, begin)) {
      parts.push_back(text.substr(begin, found - begin));
      begin = found + separator.size();
    }
    parts.push_back(text.substr(begin));
    return parts;
  }
  text = Strip(text, {}, Side::kLeft);
  while (!text.empty()) {
    size_t end = 0;
    if (max_splits-- == 0) {
      parts.push_back(Strip(text, {}, Side::kRight));
      break;
    }
    for (size_t next = 0; next < text.size(); end = next) {
      if (IsPythonSpace(NextCodePoint(text, &next))) {
        break;
      }
    }
    parts.push_back(text.substr(0, end));
    text = Strip(text.substr(end), {}, Side::kLeft);
  }
  return parts;
}

}  // namespace varve::jinja
