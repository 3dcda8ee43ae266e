// Numbers of tokens as people write them on a command line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

#include <CLI/CLI.hpp>

namespace varve::cli {

// "4096", "128K", "1M", "1.5M": binary multiples, 1M = 1,048,576, as lengths of contexts are
// counted. At least 1. kInvalidArgument, with what was written.
Result<int64_t> ParseTokenCount(std::string_view text);
// "128K" where it is that exactly, else digits.
std::string FormatTokenCount(int64_t tokens);

// Adds an option of one number of tokens, or of a list of them. `tokens` holds the default and
// outlives the parse.
CLI::Option* AddTokenCount(CLI::App& command,
                           const std::string& flag,
                           int64_t& tokens,
                           const std::string& help);
CLI::Option* AddTokenCounts(CLI::App& command,
                            const std::string& flag,
                            std::vector<int64_t>& tokens,
                            const std::string& help);

}  // namespace varve::cli
