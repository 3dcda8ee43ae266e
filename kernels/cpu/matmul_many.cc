// Weights times many tokens: a block of rows is widened to fp32 and packed into panels once, then
// multiplied in registers.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_many.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>

#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/matmul_parts.h"
#include "kernels/cpu/widen-inl.h"

#include "hwy/aligned_allocator.h"

#ifndef VARVE_KERNELS_CPU_MATMUL_MANY_ONCE_
#define VARVE_KERNELS_CPU_MATMUL_MANY_ONCE_
namespace varve {

// Columns (the contraction) of one pass: a panel of them is 20 KiB and stays in the L1 cache.
inline constexpr size_t kMaxDepth = 320;
// Tokens whose columns of one pass stay in the L2 cache beside the packed panels.
inline constexpr size_t kTokenBlock = 96;
inline constexpr size_t kMaxPanelWidth = 32;

struct MatMulScratch {
  alignas(64) float panels[(kMaxRowsMany + kMaxPanelWidth) * kMaxDepth];
  alignas(64) float wide[kMaxPanelWidth * kMaxDepth];
  alignas(64) float edge[kTokenBlock * kMaxPanelWidth];
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {

// Widens and packs rows [row_begin, row_end), columns [col, col + depth).
void PackWeights(const WeightView& w,
                 size_t row_begin,
                 size_t row_end,
                 size_t col,
                 size_t depth,
                 MatMulScratch& scratch) {
  const size_t width = PanelWidth();
  const size_t value_bytes = w.dtype == DType::kF32 ? 4 : 2;
  const auto* data = static_cast<const std::byte*>(w.data);
  for (size_t row = row_begin; row < row_end; row += width) {
    const size_t num_rows = std::min(width, row_end - row);
    for (size_t i = 0; i < num_rows; ++i) {
      const std::byte* source = data + ((row + i) * w.row_stride + col) * value_bytes;
      WidenRow(w.dtype, source, depth, scratch.wide + i * depth);
    }
    PackPanel(scratch.wide, depth, num_rows, depth, scratch.panels + (row - row_begin) * depth);
  }
}

// y[tokens, row .. row + num_rows) from one panel; `first` says that y has no value yet.
void MultiplyBlock(const MatMulParams& p,
                   size_t token,
                   size_t num_tokens,
                   size_t row,
                   size_t num_rows,
                   size_t col,
                   size_t depth,
                   bool first,
                   const float* panel,
                   float* edge) {
  const float* x = p.x + token * p.x_stride + col;
  float* y = p.y + token * p.y_stride + row;
  const size_t width = PanelWidth();
  if (num_rows == width) {
    if (first) {
      MultiplyPanel<Epilogue::kStore>(
          x, p.x_stride, num_tokens, panel, depth, nullptr, y, p.y_stride);
    } else {
      MultiplyPanel<Epilogue::kAdd>(
          x, p.x_stride, num_tokens, panel, depth, nullptr, y, p.y_stride);
    }
    return;
  }
  // The last panel is wider than what is left of y.
  MultiplyPanel<Epilogue::kStore>(x, p.x_stride, num_tokens, panel, depth, nullptr, edge, width);
  for (size_t i = 0; i < num_tokens; ++i) {
    for (size_t column = 0; column < num_rows; ++column) {
      float& out = y[i * p.y_stride + column];
      out = first ? edge[i * width + column] : out + edge[i * width + column];
    }
  }
}

void MatMulManyOnTarget(const MatMulParams& p,
                        size_t row_begin,
                        size_t row_end,
                        MatMulScratch& scratch) {
  const size_t width = PanelWidth();
  const size_t num_passes = (p.w.cols + kMaxDepth - 1) / kMaxDepth;
  const size_t max_depth = ((p.w.cols + num_passes - 1) / num_passes + 7) / 8 * 8;
  for (size_t col = 0; col < p.w.cols; col += max_depth) {
    const size_t depth = std::min(max_depth, p.w.cols - col);
    PackWeights(p.w, row_begin, row_end, col, depth, scratch);
    for (size_t token = 0; token < p.tokens; token += kTokenBlock) {
      const size_t num_tokens = std::min(kTokenBlock, p.tokens - token);
      for (size_t row = row_begin; row < row_end; row += width) {
        const float* panel = scratch.panels + (row - row_begin) * depth;
        const size_t num_rows = std::min(width, row_end - row);
        MultiplyBlock(
            p, token, num_tokens, row, num_rows, col, depth, col == 0, panel, scratch.edge);
      }
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MatMulManyOnTarget);

void MatMulMany(const MatMulParams& params, size_t row_begin, size_t row_end) {
  // Per operating-system thread, because teams of different workers multiply at the same time.
  thread_local const hwy::AlignedUniquePtr<MatMulScratch> scratch =
      hwy::MakeUniqueAligned<MatMulScratch>();
  HWY_DYNAMIC_DISPATCH(MatMulManyOnTarget)(params, row_begin, row_end, *scratch);
}

}  // namespace varve
#endif  // HWY_ONCE
