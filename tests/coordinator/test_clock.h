// A clock that tests move.
#pragma once

#include <atomic>

#include "proto/base/clock.h"

namespace varve {

class TestClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_s_ * 1'000'000; }
  int64_t UnixTimeS() const override { return now_s_; }
  void AdvanceS(int64_t seconds) { now_s_ += seconds; }

 private:
  std::atomic<int64_t> now_s_{1'800'000'000};
};

}  // namespace varve
