// Inputs of codecs whose scales are half precision (codec/f16_block.h), per target.
#if defined(VARVE_KERNELS_CPU_F16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_F16_INL_H_
#undef VARVE_KERNELS_CPU_F16_INL_H_
#else
#define VARVE_KERNELS_CPU_F16_INL_H_
#endif

#include "kernels/codec/f16_block.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// F16Sanitize of Lanes(d) values.
template <class D>
HWY_INLINE hn::Vec<D> LoadF16Sanitized(D d, const float* x) {
  const auto value = hn::LoadU(d, x);
  const auto number = hn::IfThenElseZero(hn::Eq(value, value), value);
  return hn::Min(hn::Max(number, hn::Set(d, -kF16Largest)), hn::Set(d, kF16Largest));
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
