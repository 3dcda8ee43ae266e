// Times to live as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/base/result.h"

namespace varve::cli {

// "90s", "15m", "12h", "7d", "2w" in seconds; "none": 0. kInvalidArgument.
Result<int64_t> ParseDuration(std::string_view text);

// What is wrong with a duration, for an option's check; empty: nothing.
std::string CheckDuration(const std::string& text);

// The same in the largest unit that divides it; "none" for 0.
std::string DurationText(int64_t seconds);

}  // namespace varve::cli
