#include "ops/cli/duration.h"

#include <array>
#include <charconv>

#include <fmt/format.h>

namespace varve::cli {
namespace {

struct Unit {
  char letter;
  int64_t seconds;
};
constexpr std::array<Unit, 5> kUnits = {
    {{'w', 7 * 86400}, {'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}}};
constexpr int64_t kMaxCount = 1'000'000;

}  // namespace

Result<int64_t> ParseDuration(std::string_view text) {
  if (text == "none") {
    return int64_t{0};
  }
  int64_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, count);
  if (error == std::errc() && count > 0 && count <= kMaxCount && end - rest == 1) {
    for (const Unit& unit : kUnits) {
      if (*rest == unit.letter) {
        return count * unit.seconds;
      }
    }
  }
  return Error{
      ErrorCode::kInvalidArgument,
      fmt::format("\"{}\" is not a duration like 90s, 15m, 12h, 7d or 2w, nor none", text)};
}

std::string CheckDuration(const std::string& text) {
  const Result<int64_t> duration = ParseDuration(text);
  return duration ? std::string() : duration.error().message;
}

std::string DurationText(int64_t seconds) {
  if (seconds == 0) {
    return "none";
  }
  for (const Unit& unit : kUnits) {
    if (seconds % unit.seconds == 0) {
      return fmt::format("{}{}", seconds / unit.seconds, unit.letter);
    }
  }
  return fmt::format("{}s", seconds);
}

}  // namespace varve::cli
