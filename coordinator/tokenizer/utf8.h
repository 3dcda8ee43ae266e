// UTF-8, as the tokenizers need it: validity, code points, and the replacement of what is not text.
// Pure functions.
//
// The replacement rule is the one of the Unicode standard (section 3.9) and of the reference
// libraries' lossy decoding: every maximal prefix of a well-formed sequence that is cut short
// becomes one U+FFFD, every other bad byte one U+FFFD.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace varve {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// What stands at the start of some bytes. `length` is at least 1.
struct Utf8Unit {
  enum class Kind {
    kCodePoint,   // a well-formed sequence of `length` bytes
    kInvalid,     // `length` bytes that no further byte can make well-formed
    kIncomplete,  // the bytes end inside a sequence that is well-formed so far
  };
  Kind kind = Kind::kInvalid;
  size_t length = 1;
  char32_t code_point = 0;  // of kCodePoint
};

// REQUIRES: !bytes.empty().
Utf8Unit ReadUtf8Unit(std::string_view bytes);

bool IsValidUtf8(std::string_view bytes);

// The code point at `*position`, which is moved behind it. REQUIRES: valid UTF-8, *position <
// text.size().
char32_t NextCodePoint(std::string_view text, size_t* position);

// The code point that ends at `end`. REQUIRES: valid UTF-8, 0 < end <= text.size().
char32_t PreviousCodePoint(std::string_view text, size_t end);

// Appends `bytes` with everything that is not UTF-8 replaced.
void AppendLossy(std::string_view bytes, std::string* out);

void AppendUtf8(char32_t code_point, std::string* out);

inline bool IsUtf8Continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

}  // namespace varve
