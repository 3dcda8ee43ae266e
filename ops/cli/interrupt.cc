#include "ops/cli/interrupt.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

namespace varve::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void OnSignal(int signal) {
  interrupted = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void CatchInterrupts() {
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
}

bool Interrupted() {
  return interrupted != 0;
}

bool SleepUnlessInterrupted(int64_t milliseconds) {
  constexpr int64_t kSliceMs = 50;  // how soon Ctrl-C is noticed
  while (milliseconds > 0 && !Interrupted()) {
    const int64_t slice = std::min(milliseconds, kSliceMs);
    std::this_thread::sleep_for(std::chrono::milliseconds(slice));
    milliseconds -= slice;
  }
  return !Interrupted();
}

}  // namespace varve::cli
