// Weights times few tokens: dot products along the stored rows, at the speed at which the weights
// arrive from memory.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_few.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>

#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/matmul_parts.h"
#include "kernels/cpu/widen-inl.h"

#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// y[token, row] for kTokens tokens and kRows rows: every widened weight serves all tokens from a
// register.
template <DType kDType, size_t kTokens, size_t kRows>
HWY_INLINE void DotTile(const float* HWY_RESTRICT x,
                        size_t x_stride,
                        const std::byte* HWY_RESTRICT w,
                        size_t row_bytes,
                        size_t cols,
                        float* y,
                        size_t y_stride) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  V sum[kTokens][kRows];
#pragma GCC unroll 4
  for (size_t token = 0; token < kTokens; ++token) {
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      sum[token][row] = hn::Zero(d);
    }
  }
  size_t i = 0;
  const auto add_products = [&](size_t at) HWY_ATTR {
    V weight[kRows];
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      weight[row] = LoadWide<kDType>(d, w + row * row_bytes + at * kStoredBytes<kDType>);
    }
#pragma GCC unroll 4
    for (size_t token = 0; token < kTokens; ++token) {
      const V value = hn::LoadU(d, x + token * x_stride + at);
#pragma GCC unroll 4
      for (size_t row = 0; row < kRows; ++row) {
        sum[token][row] = hn::MulAdd(value, weight[row], sum[token][row]);
      }
    }
  };
  // Several rows are as many short streams, which end before the hardware has learnt them: the next
  // tile is fetched by hand, a cache line of each row at a time.
  constexpr size_t kLine = 64 / kStoredBytes<kDType>;
  for (; i + kLine <= cols; i += kLine) {
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      hwy::Prefetch(w + (kRows + row) * row_bytes + i * kStoredBytes<kDType>);
    }
#pragma GCC unroll 4
    for (size_t at = 0; at < kLine; at += lanes) {
      add_products(i + at);
    }
  }
  for (; i + lanes <= cols; i += lanes) {
    add_products(i);
  }
  for (size_t token = 0; token < kTokens; ++token) {
    for (size_t row = 0; row < kRows; ++row) {
      float total = SumLanes(d, sum[token][row]);
      for (size_t rest = i; rest < cols; ++rest) {
        total += x[token * x_stride + rest] *
                 LoadWideScalar<kDType>(w + row * row_bytes + rest * kStoredBytes<kDType>);
      }
      y[token * y_stride + row] = total;
    }
  }
}

// The same for one token and rows without gaps: a single stream, which the hardware fetches ahead
// at the full rate of the memory.
template <DType kDType>
HWY_INLINE float DotRow(const float* HWY_RESTRICT x, const std::byte* HWY_RESTRICT w, size_t cols) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kSums = 4;
  hn::Vec<decltype(d)> sum[kSums];
#pragma GCC unroll 4
  for (size_t k = 0; k < kSums; ++k) {
    sum[k] = hn::Zero(d);
  }
  const auto add_products = [&](size_t i, size_t k) HWY_ATTR {
    const auto weight = LoadWide<kDType>(d, w + i * kStoredBytes<kDType>);
    sum[k] = hn::MulAdd(hn::LoadU(d, x + i), weight, sum[k]);
  };
  size_t i = 0;
  for (; i + kSums * lanes <= cols; i += kSums * lanes) {
#pragma GCC unroll 4
    for (size_t k = 0; k < kSums; ++k) {
      add_products(i + k * lanes, k);
    }
  }
  for (; i + lanes <= cols; i += lanes) {
    add_products(i, 0);
  }
  float total = SumLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])));
  for (; i < cols; ++i) {
    total += x[i] * LoadWideScalar<kDType>(w + i * kStoredBytes<kDType>);
  }
  return total;
}

template <DType kDType>
void DotOneToken(const MatMulParams& p, size_t token, size_t row_begin, size_t row_end) {
  const size_t row_bytes = p.w.row_stride * kStoredBytes<kDType>;
  const auto* w = static_cast<const std::byte*>(p.w.data);
  for (size_t row = row_begin; row < row_end; ++row) {
    p.y[token * p.y_stride + row] =
        DotRow<kDType>(p.x + token * p.x_stride, w + row * row_bytes, p.w.cols);
  }
}

template <DType kDType, size_t kTokens, size_t kRows>
void DotRows(const MatMulParams& p, size_t token, size_t row_begin, size_t row_end) {
  const size_t row_bytes = p.w.row_stride * kStoredBytes<kDType>;
  const auto* w = static_cast<const std::byte*>(p.w.data);
  const float* x = p.x + token * p.x_stride;
  float* y = p.y + token * p.y_stride;
  size_t row = row_begin;
  for (; row + kRows <= row_end; row += kRows) {
    DotTile<kDType, kTokens, kRows>(
        x, p.x_stride, w + row * row_bytes, row_bytes, p.w.cols, y + row, p.y_stride);
  }
  for (; row < row_end; ++row) {
    DotTile<kDType, kTokens, 1>(
        x, p.x_stride, w + row * row_bytes, row_bytes, p.w.cols, y + row, p.y_stride);
  }
}

template <DType kDType>
void DotBlock(const MatMulParams& p, size_t row_begin, size_t row_end) {
  // Strips of a few rows go through all tokens while they are in the L1 cache.
  constexpr size_t kStripRows = 8;
  for (size_t row = row_begin; row < row_end; row += kStripRows) {
    const size_t end = std::min(row + kStripRows, row_end);
    size_t token = 0;
    for (; token + 4 <= p.tokens; token += 4) {
      DotRows<kDType, 4, 2>(p, token, row, end);
    }
    switch (p.tokens - token) {
      case 3:
        DotRows<kDType, 3, 4>(p, token, row, end);
        break;
      case 2:
        DotRows<kDType, 2, 4>(p, token, row, end);
        break;
      case 1:
        if (p.w.row_stride == p.w.cols) {
          DotOneToken<kDType>(p, token, row, end);
        } else {
          DotRows<kDType, 1, 4>(p, token, row, end);
        }
        break;
      default:
        break;
    }
  }
}

void MatMulFewOnTarget(const MatMulParams& p, size_t row_begin, size_t row_end) {
  switch (p.w.dtype) {
    case DType::kF32:
      DotBlock<DType::kF32>(p, row_begin, row_end);
      break;
    case DType::kBf16:
      DotBlock<DType::kBf16>(p, row_begin, row_end);
      break;
    case DType::kF16:
      DotBlock<DType::kF16>(p, row_begin, row_end);
      break;
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MatMulFewOnTarget);

void MatMulFew(const MatMulParams& params, size_t row_begin, size_t row_end) {
  HWY_DYNAMIC_DISPATCH(MatMulFewOnTarget)(params, row_begin, row_end);
}

}  // namespace varve
#endif  // HWY_ONCE
