#include "coordinator/tokenizer/text_pieces.h"

#include "coordinator/tokenizer/utf8.h"
#include "proto/base/check.h"

namespace varve {
namespace {

bool IsAsciiLetter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// No byte of white space beyond ASCII passes: those all start with 0xC2, 0xE1, 0xE2 or 0xE3.
bool IsInk(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte > 0x20 && byte != 0x7F && byte != 0xC2 && (byte < 0xE1 || byte > 0xE3);
}

// The largest cut before a single blank whose neighbours are both `fit`, or 0.
template <typename Fits>
size_t LastCut(std::string_view text, size_t max_bytes, Fits&& fits) {
  for (size_t cut = max_bytes; cut > 0; --cut) {
    if (text[cut] == ' ' && cut + 1 < text.size() && fits(text[cut - 1]) && fits(text[cut + 1])) {
      return cut;
    }
  }
  return 0;
}

}  // namespace

size_t SafeSplit(std::string_view text, size_t max_bytes) {
  VARVE_CHECK(max_bytes >= 4);
  if (text.size() <= max_bytes) {
    return text.size();
  }
  if (const size_t cut = LastCut(text, max_bytes, IsAsciiLetter); cut != 0) {
    return cut;
  }
  if (const size_t cut = LastCut(text, max_bytes, IsInk); cut != 0) {
    return cut;
  }
  size_t cut = max_bytes;
  while (cut > max_bytes - 3 && IsUtf8Continuation(text[cut])) {
    --cut;
  }
  // Four continuations in a row are no UTF-8: any cut is as good.
  return IsUtf8Continuation(text[cut]) ? max_bytes : cut;
}

}  // namespace varve
