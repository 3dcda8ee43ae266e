#include "proto/base/units.h"

#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace varve {
namespace {

constexpr std::string_view kPrefixes = "KMGT";

// Parses "<number><K|M|G|T>[suffix]" with the given base per prefix step.
Result<uint64_t> ParseScaled(std::string_view text,
                             double step,
                             std::string_view suffix,
                             std::string_view example) {
  const Error bad{ErrorCode::kInvalidArgument,
                  fmt::format("\"{}\" is not a size; write a number such as {}", text, example)};
  double number = 0;
  const auto [rest, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc() || !(number >= 0)) {
    return bad;
  }
  std::string_view unit = text.substr(static_cast<size_t>(rest - text.data()));
  while (!unit.empty() && unit.front() == ' ') {
    unit.remove_prefix(1);
  }
  if (!unit.empty() && unit != "B") {
    const auto prefix = kPrefixes.find(static_cast<char>(std::toupper(unit.front())));
    if (prefix == std::string_view::npos ||
        (unit.size() > 1 && unit.substr(1) != suffix && unit.substr(1) != "B")) {
      return bad;
    }
    number *= std::pow(step, static_cast<double>(prefix + 1));
  }
  if (number >= 1.8e19) {
    return bad;
  }
  return static_cast<uint64_t>(std::llround(number));
}

}  // namespace

Result<uint64_t> ParseBytes(std::string_view text) {
  return ParseScaled(text, 1024.0, "iB", "64MiB or 1.5GiB");
}

Result<uint64_t> ParseCount(std::string_view text) {
  return ParseScaled(text, 1000.0, "", "8192 or 10M");
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr std::array<std::string_view, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes)
                   : fmt::format(
                         "{:.{}f} {}", value, value < 10 ? 2 : (value < 100 ? 1 : 0), kUnits[unit]);
}

}  // namespace varve
