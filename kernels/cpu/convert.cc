// Widening and narrowing of stored types, and slices of weights.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convert.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/widen-inl.h"
#include "kernels/dense.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {

void WidenOnTarget(const void* source, DType dtype, size_t count, float* out) {
  WidenRow(dtype, static_cast<const std::byte*>(source), count, out);
}

void NarrowToBf16OnTarget(const float* source, size_t count, uint16_t* out) {
  NarrowToBf16(source, count, reinterpret_cast<std::byte*>(out));
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(WidenOnTarget);
HWY_EXPORT(NarrowToBf16OnTarget);

size_t DTypeBytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

WeightView WeightView::Rows(size_t begin, size_t count) const {
  VARVE_CHECK(begin + count <= rows);
  WeightView slice = *this;
  slice.rows = count;
  if (blocks != nullptr) {
    slice.first_row += begin;
  } else {
    slice.data = static_cast<const std::byte*>(data) + begin * row_stride * DTypeBytes(dtype);
  }
  return slice;
}

WeightView WeightView::Cols(size_t begin, size_t count) const {
  VARVE_CHECK(begin + count <= cols);
  WeightView slice = *this;
  slice.cols = count;
  if (blocks != nullptr) {
    slice.first_col += begin;
  } else {
    slice.data = static_cast<const std::byte*>(data) + begin * DTypeBytes(dtype);
  }
  return slice;
}

void Widen(const void* source, DType dtype, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(WidenOnTarget)(source, dtype, count, out);
}

void NarrowToBf16(const float* source, size_t count, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(NarrowToBf16OnTarget)(source, count, out);
}

}  // namespace varve
#endif  // HWY_ONCE
