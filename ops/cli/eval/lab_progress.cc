#include "ops/cli/eval/lab_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/clock.h"

#include "ops/cli/progress.h"

namespace varve::cli {
namespace {

constexpr int64_t kBarWidth = 24;
constexpr int64_t kTerminalIntervalUs = 200'000;
constexpr int64_t kPlainIntervalUs = 10'000'000;

}  // namespace

LabProgress::LabProgress(std::FILE* out, std::string command)
    : out_(out), command_(std::move(command)), is_terminal_(isatty(fileno(out)) != 0) {}

void LabProgress::Begin(std::string label, int64_t total) {
  label_ = std::move(label);
  total_ = total;
  done_ = 0;
  begin_us_ = SystemClock().NowUs();
  next_draw_us_ = 0;
  Draw();
}

void LabProgress::AdvanceTo(int64_t done) {
  done_ = done;
  Draw();
}

void LabProgress::Draw() {
  const int64_t now_us = SystemClock().NowUs();
  const bool is_last = done_ == total_;
  if (now_us < next_draw_us_ && !is_last) {
    return;
  }
  next_draw_us_ = now_us + (is_terminal_ ? kTerminalIntervalUs : kPlainIntervalUs);
  const int64_t filled = total_ > 0 ? kBarWidth * done_ / total_ : kBarWidth;
  const double elapsed_s = static_cast<double>(now_us - begin_us_) / 1e6;
  std::string line = fmt::format("{}: {:<32} [{:#<{}}{:-<{}}] {}/{}  {}",
                                 command_,
                                 label_,
                                 "",
                                 filled,
                                 "",
                                 kBarWidth - filled,
                                 done_,
                                 total_,
                                 FormatDuration(elapsed_s));
  if (done_ > 0 && !is_last) {
    const double left =
        elapsed_s * static_cast<double>(total_ - done_) / static_cast<double>(done_);
    line += fmt::format("  ETA {}", FormatDuration(left));
  }
  if (is_terminal_) {
    fmt::print(out_, "\r{}\033[K{}", line, is_last ? "\n" : "");
  } else {
    fmt::print(out_, "{}\n", line);
  }
  std::fflush(out_);
}

}  // namespace varve::cli
