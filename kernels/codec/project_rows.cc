#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/project_rows.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <vector>

#include "kernels/codec/project_rows.h"
#include "kernels/cpu/attend_plan.h"
#include "proto/base/check.h"

#ifndef VARVE_KERNELS_CODEC_PROJECT_ROWS_ONCE_
#define VARVE_KERNELS_CODEC_PROJECT_ROWS_ONCE_
namespace varve {

// Four rows by two vectors are eight sums, enough to hide the latency of an addition.
inline constexpr size_t kProjectRows = 4;
inline constexpr size_t kProjectVectors = 2;

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using ProjectTag = hn::ScalableTag<double>;
inline constexpr size_t kProjectColumns = kProjectVectors * hn::MaxLanes(ProjectTag());

// x: [kProjectRows, depth]; panel: [depth, kProjectColumns]; sums: [kProjectRows, kProjectColumns],
// out.
HWY_INLINE void ProjectOnPanel(const double* HWY_RESTRICT x,
                               size_t depth,
                               const double* HWY_RESTRICT panel,
                               double* HWY_RESTRICT sums) {
  const ProjectTag d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<ProjectTag> sum[kProjectRows][kProjectVectors];
  for (auto& row : sum) {
    for (auto& vector : row) {
      vector = hn::Zero(d);
    }
  }
  for (size_t i = 0; i < depth; ++i) {
    const auto first = hn::Load(d, panel + i * kProjectColumns);
    const auto second = hn::Load(d, panel + i * kProjectColumns + lanes);
#pragma GCC unroll 4
    for (size_t t = 0; t < kProjectRows; ++t) {
      const auto factor = hn::Set(d, x[t * depth + i]);
      sum[t][0] = hn::Add(sum[t][0], hn::Mul(factor, first));
      sum[t][1] = hn::Add(sum[t][1], hn::Mul(factor, second));
    }
  }
  for (size_t t = 0; t < kProjectRows; ++t) {
    for (size_t v = 0; v < kProjectVectors; ++v) {
      hn::Store(sum[t][v], d, sums + t * kProjectColumns + v * lanes);
    }
  }
}

// x: centred, of whole groups of kProjectRows rows.
void ProjectCentred(const double* x,
                    size_t num_rows,
                    size_t depth,
                    const float* matrix,
                    size_t columns,
                    size_t stride,
                    float* y) {
  alignas(64) double panel[kMaxHeadDim * kProjectColumns];
  alignas(64) double sums[kProjectRows * kProjectColumns];
  for (size_t begin = 0; begin < columns; begin += kProjectColumns) {
    const size_t width = std::min(kProjectColumns, columns - begin);
    for (size_t i = 0; i < depth; ++i) {
      std::copy_n(matrix + i * stride + begin, width, panel + i * kProjectColumns);
    }
    for (size_t row = 0; row < num_rows; row += kProjectRows) {
      ProjectOnPanel(x + row * depth, depth, panel, sums);
      for (size_t t = 0; t < std::min(kProjectRows, num_rows - row); ++t) {
        std::copy_n(sums + t * kProjectColumns, width, y + (row + t) * stride + begin);
      }
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(ProjectCentred);

void ProjectRows(const float* x,
                 size_t num_rows,
                 size_t depth,
                 const float* mean,
                 const float* matrix,
                 size_t columns,
                 size_t stride,
                 float* y) {
  VARVE_CHECK(depth <= kMaxHeadDim);
  std::vector<double> centred((num_rows + kProjectRows - 1) / kProjectRows * kProjectRows * depth);
  for (size_t t = 0; t < num_rows; ++t) {
    for (size_t i = 0; i < depth; ++i) {
      centred[t * depth + i] = static_cast<double>(x[t * depth + i]) - mean[i];
    }
  }
  HWY_DYNAMIC_DISPATCH(ProjectCentred)(centred.data(), num_rows, depth, matrix, columns, stride, y);
}

}  // namespace varve
#endif  // HWY_ONCE
