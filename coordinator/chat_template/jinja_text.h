// Python's string functions, on UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace varve::jinja {

enum class Side { kBoth, kLeft, kRight };

// Without the characters of `characters` (white space if that is empty) at the ends.
std::string_view Strip(std::string_view text, std::string_view characters, Side side);

size_t CountCodePoints(std::string_view text);
// The characters of the text, each a view of it.
std::vector<std::string_view> CodePoints(std::string_view text);

// REQUIRES: less than 1 GB.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string ToTitle(std::string_view text);        // first letter of each word
std::string ToCapitalized(std::string_view text);  // first letter only

// At white space (`separator` empty) or at the separator, at most `max_splits` times (-1: no
// limit).
std::vector<std::string_view> Split(std::string_view text,
                                    std::string_view separator,
                                    int64_t max_splits);

}  // namespace varve::jinja
