// Rows of numbers into another order, per target.
#if defined(VARVE_KERNELS_CPU_REORDER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_REORDER_INL_H_
#undef VARVE_KERNELS_CPU_REORDER_INL_H_
#else
#define VARVE_KERNELS_CPU_REORDER_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// x[i] = y[places[i]] + add[i], for `count` values.
HWY_INLINE void GatherAndAdd(const float* y,
                             const int32_t* places,
                             const float* add,
                             size_t count,
                             float* x) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    const auto from = hn::GatherIndex(d, y, hn::LoadU(d32, places + i));
    hn::StoreU(hn::Add(from, hn::LoadU(d, add + i)), d, x + i);
  }
  for (; i < count; ++i) {
    x[i] = y[places[i]] + add[i];
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
