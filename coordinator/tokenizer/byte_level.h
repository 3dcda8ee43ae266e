// The alphabet of byte-level BPE: every byte has one printable character, so that vocabularies are
// readable text. Bytes that are printable Latin-1 stand for themselves, the 68 others are U+0100,
// U+0101, ... in byte order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace varve {

// "Ġthe" -> " the". nullopt if some character is not of the alphabet (then the token is not
// byte-level text).
std::optional<std::string> BytesOfByteLevelText(std::string_view text);

}  // namespace varve
