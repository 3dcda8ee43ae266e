// The smallest and the largest of some numbers, per target.
#if defined(VARVE_KERNELS_CPU_RANGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_RANGE_INL_H_
#undef VARVE_KERNELS_CPU_RANGE_INL_H_
#else
#define VARVE_KERNELS_CPU_RANGE_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"

#ifndef VARVE_KERNELS_CPU_RANGE_ONCE_
#define VARVE_KERNELS_CPU_RANGE_ONCE_
namespace varve {

struct FloatRange {
  float low;
  float high;
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Of numbers, at least one. Which zero is returned where both signs occur is the target's choice.
inline FloatRange RangeOf(const float* x, size_t count) {
  const hn::ScalableTag<float> d;
  auto lows = hn::Set(d, x[0]);
  auto highs = lows;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    const auto value = hn::LoadU(d, x + i);
    lows = hn::Min(lows, value);
    highs = hn::Max(highs, value);
  }
  FloatRange range{hn::GetLane(hn::MinOfLanes(d, lows)), hn::GetLane(hn::MaxOfLanes(d, highs))};
  for (; i < count; ++i) {
    range.low = std::min(range.low, x[i]);
    range.high = std::max(range.high, x[i]);
  }
  return range;
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
