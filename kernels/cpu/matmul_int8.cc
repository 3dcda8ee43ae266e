// Weights in int8 times quantised tokens, few or many: one loop. It takes the weights as they lie,
// so that nothing is packed, and every weight that is widened serves a tile of tokens.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_int8.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cstring>

#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/matmul_parts.h"
#include "kernels/cpu/pair_dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using SumTag = hn::CappedTag<int32_t, kWeightPanelRows>;
inline constexpr size_t kSumLanes = hn::MaxLanes(SumTag());
inline constexpr size_t kVectors = kWeightPanelRows / kSumLanes;
// Twelve integer sums at a time: they hide the latency of the multiplications and leave room for
// weights and a factor in 16 registers.
inline constexpr size_t kTileTokens = 12 / kVectors;

// y[token, 0 .. kWeightPanelRows) for kTokens tokens. blocks: [num_groups].
template <bool kVnni, size_t kTokens>
HWY_INLINE void MultiplyTile(const WeightBlock* HWY_RESTRICT blocks,
                             size_t num_groups,
                             const int16_t* HWY_RESTRICT codes,
                             const float* HWY_RESTRICT scales,
                             float* HWY_RESTRICT y,
                             size_t y_stride) {
  const SumTag d32;
  const hn::RebindToFloat<SumTag> d;
  const hn::Repartition<int16_t, SumTag> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  const size_t token_codes = num_groups * kWeightGroupCols;
  hn::Vec<decltype(d)> total[kTokens][kVectors];
#pragma GCC unroll 16
  for (size_t token = 0; token < kTokens; ++token) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      total[token][v] = hn::Zero(d);
    }
  }
  for (size_t group = 0; group < num_groups; ++group) {
    const WeightBlock& block = blocks[group];
    const int16_t* group_codes = codes + group * kWeightGroupCols;
    hn::Vec<SumTag> sum[kTokens][kVectors];
#pragma GCC unroll 16
    for (size_t token = 0; token < kTokens; ++token) {
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        sum[token][v] = hn::Zero(d32);
      }
    }
    for (size_t pair = 0; pair < kWeightGroupCols / 2; ++pair) {
      hn::Vec<decltype(d16)> weight[kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        weight[v] = hn::PromoteTo(d16, hn::LoadU(d8, block.codes[pair][v * kSumLanes]));
      }
#pragma GCC unroll 16
      for (size_t token = 0; token < kTokens; ++token) {
        int32_t factors;
        std::memcpy(&factors, group_codes + token * token_codes + 2 * pair, sizeof(factors));
        const auto factor = hn::BitCast(d16, hn::Set(d32, factors));
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v) {
          sum[token][v] = AddPairProducts<kVnni>(sum[token][v], weight[v], factor);
        }
      }
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const auto weight_scale =
          LoadBf16(d, reinterpret_cast<const std::byte*>(block.scales + v * kSumLanes));
#pragma GCC unroll 16
      for (size_t token = 0; token < kTokens; ++token) {
        const auto scale = hn::Mul(weight_scale, hn::Set(d, scales[token * num_groups + group]));
        total[token][v] = hn::MulAdd(hn::ConvertTo(d, sum[token][v]), scale, total[token][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (size_t token = 0; token < kTokens; ++token) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(total[token][v], d, y + token * y_stride + v * kSumLanes);
    }
  }
}

// The same for `tokens` <= kTokens tokens.
template <bool kVnni, size_t kTokens>
void MultiplyTokens(size_t tokens,
                    const WeightBlock* blocks,
                    size_t num_groups,
                    const int16_t* codes,
                    const float* scales,
                    float* y,
                    size_t y_stride) {
  if constexpr (kTokens > 0) {
    if (tokens < kTokens) {
      MultiplyTokens<kVnni, kTokens - 1>(tokens, blocks, num_groups, codes, scales, y, y_stride);
    } else {
      MultiplyTile<kVnni, kTokens>(blocks, num_groups, codes, scales, y, y_stride);
    }
  }
}

template <bool kVnni>
void MultiplyPanels(const Int8MatMulParams& p, size_t panel_begin, size_t panel_end) {
  const WeightView& w = p.w;
  const size_t end_row = w.first_row + w.rows;
  float edge[kTileTokens * kWeightPanelRows];
  for (size_t first = 0; first < p.tokens; first += p.token_block) {
    const size_t end = std::min(first + p.token_block, p.tokens);
    for (size_t panel = panel_begin; panel < panel_end; ++panel) {
      const WeightBlock* blocks = w.blocks + panel * w.row_groups + w.first_col / kWeightGroupCols;
      const size_t panel_row = panel * kWeightPanelRows;
      const size_t row_begin = std::max(panel_row, w.first_row);
      const size_t row_end = std::min(panel_row + kWeightPanelRows, end_row);
      const bool whole = row_end - row_begin == kWeightPanelRows;
      for (size_t token = first; token < end; token += kTileTokens) {
        const size_t count = std::min(kTileTokens, end - token);
        float* y = p.y + token * p.y_stride + (row_begin - w.first_row);
        MultiplyTokens<kVnni, kTileTokens>(count,
                                           blocks,
                                           p.num_groups,
                                           p.codes + token * p.num_groups * kWeightGroupCols,
                                           p.scales + token * p.num_groups,
                                           whole ? y : edge,
                                           whole ? p.y_stride : kWeightPanelRows);
        for (size_t i = 0; i < count && !whole; ++i) {
          std::memcpy(y + i * p.y_stride,
                      edge + i * kWeightPanelRows + (row_begin - panel_row),
                      (row_end - row_begin) * sizeof(float));
        }
      }
    }
  }
}

void MatMulInt8OnTarget(const Int8MatMulParams& p, size_t panel_begin, size_t panel_end) {
#if HWY_TARGET == HWY_AVX3
  static const bool kHasVnni = HasVnni();
  if (kHasVnni) {
    MultiplyPanels<true>(p, panel_begin, panel_end);
    return;
  }
#endif
  MultiplyPanels<false>(p, panel_begin, panel_end);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MatMulInt8OnTarget);

void MatMulInt8(const Int8MatMulParams& params, size_t panel_begin, size_t panel_end) {
  HWY_DYNAMIC_DISPATCH(MatMulInt8OnTarget)(params, panel_begin, panel_end);
}

}  // namespace varve
#endif  // HWY_ONCE
