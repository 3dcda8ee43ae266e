// The register-tiled matrix product that prefill attention and the dense layers share, per target:
// c = a * panels.
//
// A panel is PanelWidth() columns of the right-hand matrix, [depth, PanelWidth()] and contiguous,
// so that the inner loop reads it as one stream; `a` is read row by row with broadcasts and needs
// no packing. With six rows there are twelve accumulators: enough to hide the latency of two FMA
// units (4 cycles times 2), and few enough for 16 registers.
#if defined(VARVE_KERNELS_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_GEMM_INL_H_
#undef VARVE_KERNELS_CPU_GEMM_INL_H_
#else
#define VARVE_KERNELS_CPU_GEMM_INL_H_
#endif

#include <cstddef>
#include <type_traits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using GemmTag = hn::ScalableTag<float>;

inline constexpr size_t kTileRows = 6;

HWY_INLINE constexpr size_t PanelWidth() {
  return 2 * hn::MaxLanes(GemmTag());
}

// What happens to the old value of c.
enum class Epilogue {
  kStore,     // c = product
  kAdd,       // c = c + product
  kScaleAdd,  // c = c * row_scale[row] + product
};

// c[kRows, PanelWidth()] from a[kRows, depth].
template <size_t kRows, Epilogue kEpilogue>
HWY_INLINE void MultiplyTile(const float* HWY_RESTRICT a,
                             size_t a_stride,
                             const float* HWY_RESTRICT panel,
                             size_t depth,
                             const float* row_scale,
                             float* HWY_RESTRICT c,
                             size_t c_stride) {
  const GemmTag d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<GemmTag> low[kRows];
  hn::Vec<GemmTag> high[kRows];
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
    low[row] = hn::Zero(d);
    high[row] = hn::Zero(d);
  }
  for (size_t k = 0; k < depth; ++k) {
    const auto panel_low = hn::LoadU(d, panel);
    const auto panel_high = hn::LoadU(d, panel + lanes);
    panel += 2 * lanes;
#pragma GCC unroll 8
    for (size_t row = 0; row < kRows; ++row) {
      const auto factor = hn::Set(d, a[row * a_stride + k]);
      low[row] = hn::MulAdd(factor, panel_low, low[row]);
      high[row] = hn::MulAdd(factor, panel_high, high[row]);
    }
  }
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
    float* out = c + row * c_stride;
    if constexpr (kEpilogue == Epilogue::kAdd) {
      low[row] = hn::Add(hn::LoadU(d, out), low[row]);
      high[row] = hn::Add(hn::LoadU(d, out + lanes), high[row]);
    } else if constexpr (kEpilogue == Epilogue::kScaleAdd) {
      const auto scale = hn::Set(d, row_scale[row]);
      low[row] = hn::MulAdd(hn::LoadU(d, out), scale, low[row]);
      high[row] = hn::MulAdd(hn::LoadU(d, out + lanes), scale, high[row]);
    }
    hn::StoreU(low[row], d, out);
    hn::StoreU(high[row], d, out + lanes);
  }
}

// Calls body(first row, number of rows as a constant) for tiles of `rows` rows: all of kTileRows
// but for the last.
template <size_t kRows = kTileRows, class Body>
HWY_INLINE void ForTiles(size_t rows, const Body& body, size_t row = 0) {
  for (; row + kRows <= rows; row += kRows) {
    body(row, std::integral_constant<size_t, kRows>());
  }
  if constexpr (kRows > 1) {
    ForTiles<kRows - 1>(rows, body, row);
  }
}

// One panel for `rows` rows of a and c. c has room for PanelWidth() columns.
template <Epilogue kEpilogue>
void MultiplyPanel(const float* a,
                   size_t a_stride,
                   size_t rows,
                   const float* panel,
                   size_t depth,
                   const float* row_scale,
                   float* c,
                   size_t c_stride) {
  ForTiles(rows, [&](size_t row, auto count) HWY_ATTR {
    const float* scale = kEpilogue == Epilogue::kScaleAdd ? row_scale + row : nullptr;
    MultiplyTile<decltype(count)::value, kEpilogue>(
        a + row * a_stride, a_stride, panel, depth, scale, c + row * c_stride, c_stride);
  });
}

// Four rows of four values each become four columns: out[i * out_stride + row] = in[row * in_stride
// + i].
template <class T>
HWY_INLINE void Transpose4x4(const T* in, size_t in_stride, T* out, size_t out_stride) {
  static_assert(sizeof(T) == sizeof(float));
  const hn::FixedTag<T, 4> d;
  const hn::FixedTag<double, 2> pairs;
  const auto a = hn::LoadU(d, in);
  const auto b = hn::LoadU(d, in + in_stride);
  const auto c = hn::LoadU(d, in + 2 * in_stride);
  const auto e = hn::LoadU(d, in + 3 * in_stride);
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
  const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, out);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, out + out_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, out + 2 * out_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, out + 3 * out_stride);
}

// Rows of 32-bit elements become one panel: panel[i, column] = rows[column, i], zero for columns >=
// num_rows. rows: [num_rows, depth]. REQUIRES: num_rows <= PanelWidth().
template <class T>
void PackPanel(const T* rows, size_t row_stride, size_t num_rows, size_t depth, T* panel) {
  const size_t width = PanelWidth();
  const size_t whole_depth = depth / 4 * 4;
  size_t row = 0;
  for (; row + 4 <= num_rows; row += 4) {
    for (size_t i = 0; i < whole_depth; i += 4) {
      Transpose4x4(rows + row * row_stride + i, row_stride, panel + i * width + row, width);
    }
    for (size_t i = whole_depth; i < depth; ++i) {
      for (size_t column = row; column < row + 4; ++column) {
        panel[i * width + column] = rows[column * row_stride + i];
      }
    }
  }
  for (; row < width; ++row) {
    for (size_t i = 0; i < depth; ++i) {
      panel[i * width + row] = row < num_rows ? rows[row * row_stride + i] : T{0};
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
