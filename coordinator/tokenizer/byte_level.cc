#include "coordinator/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "coordinator/tokenizer/utf8.h"

namespace varve {
namespace {

constexpr int kNumMoved =
    68;  // bytes whose character is 0x100 + their rank among the unprintable ones
constexpr size_t kAlphabetEnd = 0x100 + kNumMoved;

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

// Byte of each character, -1 where there is none.
constexpr std::array<int16_t, kAlphabetEnd> MakeTable() {
  std::array<int16_t, kAlphabetEnd> table{};
  for (int16_t& entry : table) {
    entry = -1;
  }
  int num_moved = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const int character = StandsForItself(byte) ? byte : 0x100 + num_moved++;
    table[static_cast<size_t>(character)] = static_cast<int16_t>(byte);
  }
  return table;
}

constexpr auto kByteOfCharacter = MakeTable();
static_assert(kByteOfCharacter[kAlphabetEnd - 1] == 0xAD);

}  // namespace

std::optional<std::string> BytesOfByteLevelText(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const char32_t character = NextCodePoint(text, &position);
    if (character >= kAlphabetEnd || kByteOfCharacter[character] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kByteOfCharacter[character]));
  }
  return bytes;
}

}  // namespace varve
