// Sizes as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/base/result.h"

namespace varve {

inline constexpr uint64_t kKiB = uint64_t{1} << 10;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;

// "512", "64KiB", "64K", "1.5GiB", "2T": binary multiples. For flags and settings.
Result<uint64_t> ParseBytes(std::string_view text);
// "10M" = 10,000,000: decimal multiples, for token counts.
Result<uint64_t> ParseCount(std::string_view text);
// "1.5 GiB", three significant digits.
std::string FormatBytes(uint64_t bytes);

}  // namespace varve
