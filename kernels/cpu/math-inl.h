// exp in vector registers, per target.
#if defined(VARVE_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_MATH_INL_H_
#undef VARVE_KERNELS_CPU_MATH_INL_H_
#else
#define VARVE_KERNELS_CPU_MATH_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// e^x for x <= 88 (larger x counts as 88), 0 for x < -87.3: relative error below 2e-7, and exactly
// 1 at 0. The reduction to |r| <= ln2 / 2 is Cody and Waite's; the polynomial is minimax of degree
// 6 with its first two coefficients held at 1.
template <class D>
HWY_INLINE hn::Vec<D> FastExp(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> d32;
  const auto lowest = hn::Set(d, -87.3F);
  const auto y = hn::Min(hn::Set(d, 88.0F), hn::Max(lowest, x));
  // Behind the sum with 1.5 * 2^23 the last bits are the rounded number.
  const auto magic = hn::Set(d, 12582912.0F);
  const auto shifted = hn::MulAdd(y, hn::Set(d, 1.44269504F), magic);
  const auto n = hn::Sub(shifted, magic);
  // The upper part has few bits: n times it is exact without an FMA, too.
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), y);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), r);
  auto p = hn::MulAdd(hn::Set(d, 0.0013814599F), r, hn::Set(d, 0.008368717F));
  p = hn::MulAdd(p, r, hn::Set(d, 0.04166839F));
  p = hn::MulAdd(p, r, hn::Set(d, 0.16666521F));
  p = hn::MulAdd(p, r, hn::Set(d, 0.49999994F));
  p = hn::MulAdd(hn::Mul(r, r), p, r);
  p = hn::Add(p, hn::Set(d, 1.0F));
  // Times 2^n: p is between 0.7 and 1.5, and no exponent leaves its range.
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(d32, shifted));
  const auto product = hn::BitCast(d, hn::Add(hn::BitCast(d32, p), exponent));
  return hn::IfThenZeroElse(hn::Lt(x, lowest), product);
}

// Sum over the lanes.
template <class D>
HWY_INLINE float SumLanes(D d, hn::Vec<D> x) {
  return hn::GetLane(hn::SumOfLanes(d, x));
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
