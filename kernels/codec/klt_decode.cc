// Rows of the klt codecs from their bytes: y of klt_block.h, of keys times a matrix.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/klt_decode.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>

#include "kernels/codec/klt_decode.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/group_codes-inl.h"
#include "kernels/cpu/rotate-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The scaled levels of one token's dimensions that have bits.
HWY_INLINE void LoadKltToken(const std::byte* codes,
                             float scale,
                             const KltSide<const float>& side,
                             size_t num_groups,
                             float* y) {
  for (size_t group = 0; group < num_groups; ++group) {
    const auto bits = static_cast<size_t>(side.group_bits[group]);
    if (bits == 0) {
      continue;
    }
    LoadGroup(codes, bits, side.levels + KltLevelsAt(bits), scale, y);
    codes += bits;
    y += kKltGroup;
  }
}

// Columns from i on, kVectors vectors, of the rows of `inverse` that have bits, one behind the
// other. In place they lie whole rows apart, which only a few sets of the cache can hold.
template <size_t kVectors, class D>
size_t PackKltColumns(D d,
                      const KltTables<const float>& tables,
                      size_t num_groups,
                      size_t head_dim,
                      size_t i,
                      float* panel) {
  const size_t lanes = hn::Lanes(d);
  size_t count = 0;
  for (size_t dim = 0; dim < num_groups * kKltGroup; ++dim) {
    if (tables.keys.group_bits[dim / kKltGroup] != 0.0F) {
      const float* source = tables.inverse + dim * head_dim + i;
      for (size_t v = 0; v < kVectors; ++v) {
        hn::StoreU(hn::LoadU(d, source + v * lanes), d, panel + (count * kVectors + v) * lanes);
      }
      ++count;
    }
  }
  return count;
}

inline constexpr size_t kKltTokens = 4;

// x[t, 0 .. kVectors) = mean + sum over the dimensions of y[t][dim] * panel[dim], for kKltTokens
// tokens, of which `num_tokens` are stored.
template <size_t kVectors, class D>
HWY_INLINE void MultiplyKltPanel(D d,
                                 const float* HWY_RESTRICT mean,
                                 const float* HWY_RESTRICT panel,
                                 const float* HWY_RESTRICT y,
                                 size_t y_stride,
                                 size_t num_dims,
                                 size_t num_tokens,
                                 size_t head_dim,
                                 float* HWY_RESTRICT x) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  V sum[kKltTokens][kVectors];
#pragma GCC unroll 4
  for (size_t t = 0; t < kKltTokens; ++t) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      sum[t][v] = hn::LoadU(d, mean + v * lanes);
    }
  }
  for (size_t dim = 0; dim < num_dims; ++dim) {
    V row[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      row[v] = hn::LoadU(d, panel + (dim * kVectors + v) * lanes);
    }
#pragma GCC unroll 4
    for (size_t t = 0; t < kKltTokens; ++t) {
      const V factor = hn::Set(d, y[t * y_stride + dim]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        sum[t][v] = hn::MulAdd(factor, row[v], sum[t][v]);
      }
    }
  }
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sum[t][v], d, x + t * head_dim + v * lanes);
    }
  }
}

// Tokens that are decoded together, and room for a last group of them that is not full.
inline constexpr size_t kKltChunk = 64;

template <size_t kVectors, class D>
void MultiplyKltColumns(D d,
                        const KltTables<const float>& tables,
                        const float* y,
                        size_t y_stride,
                        size_t num_tokens,
                        size_t head_dim,
                        size_t num_groups,
                        size_t i,
                        float* x) {
  alignas(64) float panel[kMaxHeadDim * kVectors * hn::MaxLanes(D())];
  const size_t num_dims = PackKltColumns<kVectors>(d, tables, num_groups, head_dim, i, panel);
  for (size_t t = 0; t < num_tokens; t += kKltTokens) {
    MultiplyKltPanel<kVectors>(d,
                               tables.mean + i,
                               panel,
                               y + t * y_stride,
                               y_stride,
                               num_dims,
                               std::min(kKltTokens, num_tokens - t),
                               head_dim,
                               x + t * head_dim + i);
  }
}

// x: [num_tokens, head_dim], from y: [kKltChunk, y_stride].
void MultiplyKlt(const KltTables<const float>& tables,
                 const float* y,
                 size_t y_stride,
                 size_t num_tokens,
                 size_t head_dim,
                 size_t num_groups,
                 float* x) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  // Four tokens by two vectors are the eight sums that keep two FMA units busy.
  for (; i + 2 * lanes <= head_dim; i += 2 * lanes) {
    MultiplyKltColumns<2>(d, tables, y, y_stride, num_tokens, head_dim, num_groups, i, x);
  }
  for (; i + lanes <= head_dim; i += lanes) {
    MultiplyKltColumns<1>(d, tables, y, y_stride, num_tokens, head_dim, num_groups, i, x);
  }
  const hn::CappedTag<float, 1> one;
  for (; i < head_dim; ++i) {
    MultiplyKltColumns<1>(one, tables, y, y_stride, num_tokens, head_dim, num_groups, i, x);
  }
}

// codes: [num_tokens, row_bytes], scales: [num_tokens].
void KltDecodeKeys(const KltTables<const float>& tables,
                   const std::byte* codes,
                   const std::byte* scales,
                   size_t row_bytes,
                   size_t num_tokens,
                   size_t head_dim,
                   float* x) {
  const size_t y_stride = KltDims(head_dim);
  alignas(64) float y[kKltChunk * kMaxHeadDim];
  // Read to the end of the last group of tokens.
  std::fill_n(y, kKltChunk * y_stride, 0.0F);
  for (size_t begin = 0; begin < num_tokens; begin += kKltChunk) {
    const size_t count = std::min(kKltChunk, num_tokens - begin);
    for (size_t t = 0; t < count; ++t) {
      LoadKltToken(codes + (begin + t) * row_bytes,
                   KltScale(static_cast<uint8_t>(scales[begin + t])),
                   tables.keys,
                   y_stride / kKltGroup,
                   y + t * y_stride);
    }
    MultiplyKlt(tables, y, y_stride, count, head_dim, y_stride / kKltGroup, x + begin * head_dim);
  }
}

// As above.
void KltDecodeValues(const KltTables<const float>& tables,
                     const std::byte* codes,
                     const std::byte* scales,
                     size_t row_bytes,
                     size_t num_tokens,
                     size_t head_dim,
                     float* x) {
  const size_t num_groups = KltDims(head_dim) / kKltGroup;
  alignas(64) float y[kMaxHeadDim];
  for (size_t t = 0; t < num_tokens; ++t, codes += row_bytes, x += head_dim) {
    LoadKltToken(codes, KltScale(static_cast<uint8_t>(scales[t])), tables.values, num_groups, y);
    UnrotateRow(y, head_dim);
    for (size_t i = 0; i < head_dim; ++i) {
      x[i] = y[i] * tables.evenness[i];
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(KltDecodeKeys);
HWY_EXPORT(KltDecodeValues);

void DecodeKltKeys(const KltTables<const float>& tables,
                   const std::byte* codes,
                   const std::byte* scales,
                   size_t row_bytes,
                   size_t num_tokens,
                   size_t head_dim,
                   float* x) {
  HWY_DYNAMIC_DISPATCH(KltDecodeKeys)(tables, codes, scales, row_bytes, num_tokens, head_dim, x);
}

void DecodeKltValues(const KltTables<const float>& tables,
                     const std::byte* codes,
                     const std::byte* scales,
                     size_t row_bytes,
                     size_t num_tokens,
                     size_t head_dim,
                     float* x) {
  HWY_DYNAMIC_DISPATCH(KltDecodeValues)(tables, codes, scales, row_bytes, num_tokens, head_dim, x);
}

}  // namespace varve
#endif  // HWY_ONCE
