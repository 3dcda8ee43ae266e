// The register-tiled product of matrices of 16-bit integers, per target: gemm-inl.h with pairs of
// neighbours along the depth in place of floats.
#if defined(VARVE_KERNELS_CPU_PAIR_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_PAIR_GEMM_INL_H_
#undef VARVE_KERNELS_CPU_PAIR_GEMM_INL_H_
#else
#define VARVE_KERNELS_CPU_PAIR_GEMM_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/pair_dot-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using GemmWordTag = hn::RebindToSigned<GemmTag>;

// Two integers of 16 bits; `second` counts in its low half alone.
HWY_INLINE int32_t PairOf(int32_t first, int32_t second) {
  return static_cast<int32_t>(static_cast<uint32_t>(first & 0xffff) | static_cast<uint32_t>(second)
                                                                          << 16);
}

// Sums of a[kRows, 2 * num_pairs] times one panel, [num_pairs, PanelWidth()] pairs.
template <bool kVnni, size_t kRows, class Epilogue>
HWY_INLINE void MultiplyPairTile(const int16_t* HWY_RESTRICT a,
                                 size_t a_stride,
                                 const int32_t* HWY_RESTRICT panel,
                                 size_t num_pairs,
                                 size_t first_row,
                                 const Epilogue& epilogue) {
  const GemmTag d;
  const GemmWordTag d32;
  const hn::Repartition<int16_t, GemmWordTag> d16;
  const size_t lanes = hn::Lanes(d32);
  hn::Vec<GemmWordTag> low[kRows];
  hn::Vec<GemmWordTag> high[kRows];
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
    low[row] = hn::Zero(d32);
    high[row] = hn::Zero(d32);
  }
  for (size_t pair = 0; pair < num_pairs; ++pair) {
    const auto panel_low = hn::BitCast(d16, hn::LoadU(d32, panel));
    const auto panel_high = hn::BitCast(d16, hn::LoadU(d32, panel + lanes));
    panel += 2 * lanes;
#pragma GCC unroll 8
    for (size_t row = 0; row < kRows; ++row) {
      int32_t factors;
      std::memcpy(&factors, a + row * a_stride + 2 * pair, sizeof(factors));
      const auto factor = hn::BitCast(d16, hn::Set(d32, factors));
      low[row] = AddPairProducts<kVnni>(low[row], panel_low, factor);
      high[row] = AddPairProducts<kVnni>(high[row], panel_high, factor);
    }
  }
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
    epilogue.Take(first_row + row, hn::ConvertTo(d, low[row]), hn::ConvertTo(d, high[row]));
  }
}

template <bool kVnni, class Epilogue>
void MultiplyPairPanel(const int16_t* a,
                       size_t a_stride,
                       size_t rows,
                       const int32_t* panel,
                       size_t num_pairs,
                       const Epilogue& epilogue) {
  ForTiles(rows, [&](size_t row, auto count) HWY_ATTR {
    MultiplyPairTile<kVnni, decltype(count)::value>(
        a + row * a_stride, a_stride, panel, num_pairs, row, epilogue);
  });
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
