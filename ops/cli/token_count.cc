#include "ops/cli/token_count.h"

#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace varve::cli {
namespace {

constexpr double kMostTokens = 1e15;

int64_t ParseOrThrow(const std::string& flag, const std::string& text) {
  const Result<int64_t> parsed = ParseTokenCount(text);
  if (!parsed) {
    throw CLI::ValidationError(flag, parsed.error().message);
  }
  return *parsed;
}

}  // namespace

Result<int64_t> ParseTokenCount(std::string_view text) {
  const Error bad{ErrorCode::kInvalidArgument,
                  fmt::format("'{}' is no number of tokens; write one such as 8192, 128K or 1M "
                              "(1M = 1,048,576)",
                              text)};
  double number = 0;
  const auto [rest, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc()) {
    return bad;
  }
  const std::string_view unit = text.substr(static_cast<size_t>(rest - text.data()));
  if (unit == "K" || unit == "k") {
    number *= 1024;
  } else if (unit == "M" || unit == "m") {
    number *= 1024 * 1024;
  } else if (!unit.empty()) {
    return bad;
  }
  if (!(number >= 1 && number <= kMostTokens)) {
    return bad;
  }
  return std::llround(number);
}

std::string FormatTokenCount(int64_t tokens) {
  constexpr int64_t kKilo = 1024;
  if (tokens > 0 && tokens % (kKilo * kKilo) == 0) {
    return fmt::format("{}M", tokens / (kKilo * kKilo));
  }
  return tokens > 0 && tokens % kKilo == 0 ? fmt::format("{}K", tokens / kKilo)
                                           : fmt::format("{}", tokens);
}

CLI::Option* AddTokenCount(CLI::App& command,
                           const std::string& flag,
                           int64_t& tokens,
                           const std::string& help) {
  const auto store = [&tokens, flag](const std::string& text) {
    tokens = ParseOrThrow(flag, text);
  };
  return command.add_option_function<std::string>(flag, store, help)
      ->type_name("N")
      ->default_str(FormatTokenCount(tokens));
}

CLI::Option* AddTokenCounts(CLI::App& command,
                            const std::string& flag,
                            std::vector<int64_t>& tokens,
                            const std::string& help) {
  const auto store = [&tokens, flag](const std::vector<std::string>& texts) {
    tokens.clear();
    for (const std::string& text : texts) {
      tokens.push_back(ParseOrThrow(flag, text));
    }
  };
  std::string defaults;
  for (const int64_t count : tokens) {
    defaults += (defaults.empty() ? "" : ",") + FormatTokenCount(count);
  }
  return command.add_option_function<std::vector<std::string>>(flag, store, help)
      ->delimiter(',')
      ->type_name("N,...")
      ->default_str(defaults);
}

}  // namespace varve::cli
