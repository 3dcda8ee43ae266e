// What codecs take inputs for that they cannot keep, per target.
#if defined(VARVE_KERNELS_CPU_SANITIZE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_SANITIZE_INL_H_
#undef VARVE_KERNELS_CPU_SANITIZE_INL_H_
#else
#define VARVE_KERNELS_CPU_SANITIZE_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lanes(d) values: NaN is 0, magnitudes end at `largest` (Int8Sanitize, F16Sanitize).
template <class D>
HWY_INLINE hn::Vec<D> LoadSanitized(D d, const float* x, float largest) {
  const auto value = hn::LoadU(d, x);
  const auto number = hn::IfThenElseZero(hn::Eq(value, value), value);
  return hn::Min(hn::Max(number, hn::Set(d, -largest)), hn::Set(d, largest));
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
