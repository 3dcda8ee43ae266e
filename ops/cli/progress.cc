#include "ops/cli/progress.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/clock.h"

namespace varve::cli {
namespace {

constexpr int kBarWidth = 24;
constexpr int64_t kTerminalIntervalUs = 200'000;
constexpr int64_t kPlainIntervalUs = 5'000'000;

}  // namespace

std::string FormatDuration(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(std::max(seconds, 0.0)));
  const int64_t hours = whole / 3600;
  const int64_t minutes = whole / 60 % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60)
                   : fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string FormatCount(int64_t count) {
  const std::string digits = fmt::format("{}", count < 0 ? -count : count);
  std::string text = count < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) {
      text.push_back(',');
    }
    text.push_back(digits[i]);
  }
  return text;
}

std::string FormatProgress(std::string_view name, const IngestProgress& progress, int bar_width) {
  const double whole = static_cast<double>(std::max<uint64_t>(progress.text_bytes, 1));
  const double done = std::min(1.0, static_cast<double>(progress.text_bytes_done) / whole);
  const double sent = std::min(1.0, static_cast<double>(progress.text_bytes_sent) / whole);
  const auto filled = static_cast<size_t>(done * bar_width);
  const auto queued = std::max(static_cast<size_t>(sent * bar_width), filled);
  const std::string bar = std::string(filled, '#') + std::string(queued - filled, '+') +
                          std::string(static_cast<size_t>(bar_width) - queued, '-');
  std::string line = fmt::format("{} [{}] {:3.0f} %  {} tokens",
                                 name,
                                 bar,
                                 std::floor(done * 100),
                                 FormatCount(progress.tokens_done));
  if (progress.tokens_per_s > 0) {
    line += fmt::format("  {} tokens/s", FormatCount(std::llround(progress.tokens_per_s)));
  }
  if (progress.eta_s >= 0) {
    line += fmt::format("  ETA {}", FormatDuration(progress.eta_s));
  }
  return line;
}

ProgressLine::ProgressLine(std::FILE* out, std::string name, bool quiet)
    : out_(out),
      name_(std::move(name)),
      quiet_(quiet),
      is_terminal_(::isatty(::fileno(out)) != 0) {}

void ProgressLine::Update(const IngestProgress& progress) {
  const int64_t now_us = SystemClock().NowUs();
  if (quiet_ || now_us < next_draw_us_) {
    return;
  }
  next_draw_us_ = now_us + (is_terminal_ ? kTerminalIntervalUs : kPlainIntervalUs);
  Draw(progress);
}

void ProgressLine::Finish(const IngestProgress& progress) {
  if (quiet_) {
    return;
  }
  Draw(progress);
  if (line_open_) {
    fmt::print(out_, "\n");
  }
  std::fflush(out_);
}

void ProgressLine::Draw(const IngestProgress& progress) {
  const std::string line = FormatProgress(name_, progress, kBarWidth);
  if (is_terminal_) {
    fmt::print(
        out_, "\r{}\x1b[K", line);  // back to the line's start; clear what a longer line left
    line_open_ = true;
  } else {
    fmt::print(out_, "{}\n", line);
  }
  std::fflush(out_);
}

}  // namespace varve::cli
