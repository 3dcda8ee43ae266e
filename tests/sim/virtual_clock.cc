#include "tests/sim/virtual_clock.h"

#include <atomic>

#include "proto/base/clock.h"

namespace varve {
namespace {

constexpr int64_t kStartUs = 1'000'000;

std::atomic<int64_t> now_us{kStartUs};

class VirtualClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us; }
  int64_t UnixTimeS() const override { return 1'700'000'000 + now_us / 1'000'000; }
};

}  // namespace

void AdvanceVirtualTime(int64_t us) {
  now_us += us;
}

void ResetVirtualTime() {
  now_us = kStartUs;
}

int64_t ThreadCpuUs() {
  return 0;
}

const Clock& SystemClock() {
  static const VirtualClock clock;
  return clock;
}

}  // namespace varve
