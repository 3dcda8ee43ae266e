#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/ordered_product.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <vector>

#include "kernels/codec/ordered_product.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four rows by two vectors are eight sums, enough to hide the latency of an addition.
template <class T>
inline constexpr size_t kPanelColumns = 2 * hn::MaxLanes(hn::ScalableTag<T>());

// a: [kOrderedRows, depth]; panel: [depth, kPanelColumns]; sums: [kOrderedRows, kPanelColumns],
// out.
template <class T>
HWY_INLINE void MultiplyPanel(const T* HWY_RESTRICT a,
                              size_t depth,
                              const T* HWY_RESTRICT panel,
                              T* HWY_RESTRICT sums) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<decltype(d)> sum[kOrderedRows][2];
  for (auto& row : sum) {
    row[0] = row[1] = hn::Zero(d);
  }
  for (size_t i = 0; i < depth; ++i) {
    const auto first = hn::LoadU(d, panel + i * kPanelColumns<T>);
    const auto second = hn::LoadU(d, panel + i * kPanelColumns<T> + lanes);
#pragma GCC unroll 4
    for (size_t r = 0; r < kOrderedRows; ++r) {
      // Not MulAdd: targets without FMA would round otherwise.
      const auto factor = hn::Set(d, a[r * depth + i]);
      sum[r][0] = hn::Add(sum[r][0], hn::Mul(factor, first));
      sum[r][1] = hn::Add(sum[r][1], hn::Mul(factor, second));
    }
  }
  for (size_t r = 0; r < kOrderedRows; ++r) {
    hn::Store(sum[r][0], d, sums + r * kPanelColumns<T>);
    hn::Store(sum[r][1], d, sums + r * kPanelColumns<T> + lanes);
  }
}

// c = a b. a: of whole groups of kOrderedRows rows; b, c: rows `stride` floats apart.
template <class T>
void Multiply(const T* a,
              size_t rows,
              size_t depth,
              const float* b,
              size_t columns,
              size_t stride,
              float* c) {
  std::vector<T> panel(depth * kPanelColumns<T>);
  alignas(64) T sums[kOrderedRows * kPanelColumns<T>];
  for (size_t begin = 0; begin < columns; begin += kPanelColumns<T>) {
    const size_t width = std::min(kPanelColumns<T>, columns - begin);
    for (size_t i = 0; i < depth; ++i) {
      std::copy_n(b + i * stride + begin, width, panel.data() + i * kPanelColumns<T>);
    }
    for (size_t row = 0; row < rows; row += kOrderedRows) {
      MultiplyPanel(a + row * depth, depth, panel.data(), sums);
      for (size_t r = 0; r < std::min(kOrderedRows, rows - row); ++r) {
        std::copy_n(sums + r * kPanelColumns<T>, width, c + (row + r) * stride + begin);
      }
    }
  }
}

void MultiplyFloats(const float* a,
                    size_t rows,
                    size_t depth,
                    const float* b,
                    size_t columns,
                    size_t stride,
                    float* c) {
  Multiply(a, rows, depth, b, columns, stride, c);
}

void MultiplyDoubles(const double* a,
                     size_t rows,
                     size_t depth,
                     const float* b,
                     size_t columns,
                     size_t stride,
                     float* c) {
  Multiply(a, rows, depth, b, columns, stride, c);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MultiplyFloats);
HWY_EXPORT(MultiplyDoubles);

void MultiplyInOrder(const float* a,
                     size_t rows,
                     size_t depth,
                     const float* b,
                     size_t columns,
                     float* c) {
  VARVE_CHECK(rows % kOrderedRows == 0);
  HWY_DYNAMIC_DISPATCH(MultiplyFloats)(a, rows, depth, b, columns, columns, c);
}

void ProjectRows(const float* x,
                 size_t num_rows,
                 size_t depth,
                 const float* mean,
                 const float* matrix,
                 size_t columns,
                 size_t stride,
                 float* y) {
  std::vector<double> centred((num_rows + kOrderedRows - 1) / kOrderedRows * kOrderedRows * depth);
  for (size_t t = 0; t < num_rows; ++t) {
    for (size_t i = 0; i < depth; ++i) {
      centred[t * depth + i] = static_cast<double>(x[t * depth + i]) - mean[i];
    }
  }
  HWY_DYNAMIC_DISPATCH(MultiplyDoubles)
  (centred.data(), num_rows, depth, matrix, columns, stride, y);
}

}  // namespace varve
#endif  // HWY_ONCE
