// One tile of codes for attention of many rows, in integer arithmetic, per target: keys and values
// become panels of 16-bit integers once per block, queries and softmax weights are rounded to 16
// bits for each row. What that costs in accuracy and why nothing overflows: few_rows_codes-inl.h.
#if defined(VARVE_KERNELS_CPU_MANY_CODE_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_MANY_CODE_TILE_INL_H_
#undef VARVE_KERNELS_CPU_MANY_CODE_TILE_INL_H_
#else
#define VARVE_KERNELS_CPU_MANY_CODE_TILE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_tile-inl.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/many_scratch-inl.h"
#include "kernels/cpu/pair_dot-inl.h"
#include "kernels/cpu/pair_gemm-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What becomes of a row of sums.
struct SumsToScores {
  float* scores;  // of the row of the first sum
  size_t stride;

  HWY_INLINE void Take(size_t row, hn::Vec<GemmTag> low, hn::Vec<GemmTag> high) const {
    const GemmTag d;
    hn::StoreU(low, d, scores + row * stride);
    hn::StoreU(high, d, scores + row * stride + hn::Lanes(d));
  }
};
struct SumsToOutput {
  float* o;  // o = o * correction + sum * factor + offset
  size_t stride;
  const float* corrections;
  const float* factors;
  const float* offsets;

  HWY_INLINE void Take(size_t row, hn::Vec<GemmTag> low, hn::Vec<GemmTag> high) const {
    const GemmTag d;
    const auto correction = hn::Set(d, corrections[row]);
    const auto factor = hn::Set(d, factors[row]);
    const auto offset = hn::Set(d, offsets[row]);
    float* out = o + row * stride;
    const auto old_low = hn::LoadU(d, out);
    const auto old_high = hn::LoadU(d, out + hn::Lanes(d));
    hn::StoreU(hn::MulAdd(old_low, correction, hn::MulAdd(low, factor, offset)), d, out);
    hn::StoreU(
        hn::MulAdd(old_high, correction, hn::MulAdd(high, factor, offset)), d, out + hn::Lanes(d));
  }
};

// A loaded code as the integer it stands for.
template <class Reader>
HWY_INLINE hn::Vec<GemmWordTag> CodeInteger(hn::Vec<GemmTag> code) {
  const GemmTag d;
  const auto centred = hn::Sub(code, hn::Set(d, Reader::kCentre));
  return hn::NearestInt(hn::Mul(centred, hn::Set(d, 1.0F / Reader::kStep)));
}
template <class Reader>
HWY_INLINE int32_t CodeInteger(float code) {
  return static_cast<int32_t>(std::lrint((code - Reader::kCentre) * (1.0F / Reader::kStep)));
}

// Key `token` as pairs of neighbouring dimensions, [PairsOf(head_dim)].
template <class Reader>
HWY_INLINE void KeyPairs(const Reader& reader, size_t token, size_t head_dim, int32_t* out) {
  const GemmTag d;
  const hn::Rebind<int16_t, GemmTag> d16;
  const hn::Repartition<int32_t, decltype(d16)> pairs;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    const auto words = hn::DemoteTo(d16, CodeInteger<Reader>(reader.Key(d, token, i)));
    hn::StoreU(hn::BitCast(pairs, words), pairs, out + i / 2);
  }
  for (; i < head_dim; i += 2) {
    const int32_t first = CodeInteger<Reader>(reader.KeyScalar(token, i));
    const int32_t second =
        i + 1 < head_dim ? CodeInteger<Reader>(reader.KeyScalar(token, i + 1)) : 0;
    out[i / 2] = PairOf(first, second);
  }
}

// The weights of a row, of which `largest` is the largest magnitude, as 16-bit integers; returns
// what one of them is worth. In blocks of PanelWidth() tokens, token i and token i + PanelWidth() /
// 2 of a block are a pair: so two vectors become one without crossing lanes.
inline float QuantizeWeights(const float* weights, Columns columns, float largest, int16_t* out) {
  const GemmTag d;
  const GemmWordTag d32;
  const hn::Repartition<int16_t, GemmWordTag> d16;
  const size_t lanes = hn::Lanes(d);
  // The reciprocal of less than this would be infinite; NaN makes the factor NaN.
  const bool is_tiny = largest <= 1e-30F;
  const auto factor = hn::Set(d, is_tiny ? 0.0F : kMaxPairCode / largest);
  // Behind the sum with this, the last 16 bits are the rounded number.
  const auto magic = hn::Set(d, 12582912.0F);
  for (size_t i = columns.first; i < columns.last; i += 2 * lanes, out += 2 * lanes) {
    const auto first = hn::BitCast(d32, hn::MulAdd(hn::LoadU(d, weights + i), factor, magic));
    const auto second =
        hn::BitCast(d32, hn::MulAdd(hn::LoadU(d, weights + i + lanes), factor, magic));
    const auto pairs = hn::Or(hn::And(first, hn::Set(d32, 0xffff)), hn::ShiftLeft<16>(second));
    hn::StoreU(hn::BitCast(d16, pairs), d16, out);
  }
  return is_tiny ? 0.0F : largest / kMaxPairCode;
}

// Values of the tile's tokens [columns.first, end), zeros up to columns.last, in the pairs of
// QuantizeWeights and in panels of dimensions, each [PairsOf(kTileTokens), PanelWidth()];
// dimensions beyond head_dim are zero.
template <class Reader>
void PackValuePairs(const Reader& reader,
                    size_t token,
                    size_t end,
                    Columns columns,
                    size_t head_dim,
                    int32_t* panels) {
  const GemmTag d;
  const GemmWordTag d32;
  const size_t lanes = hn::Lanes(d);
  const size_t width = PanelWidth();
  const size_t panel_pairs = PairsOf(kTileTokens) * width;
  const size_t num_pairs = (columns.last - columns.first) / 2;
  for (size_t pair = 0; pair < num_pairs; ++pair) {
    const size_t first_token = columns.first + pair / lanes * width + pair % lanes;
    const size_t second_token = first_token + lanes;
    int32_t* row = panels + pair * width;
    size_t i = 0;
    for (; i + lanes <= head_dim; i += lanes) {
      auto pairs = hn::Zero(d32);
      if (first_token < end) {
        const auto first = CodeInteger<Reader>(reader.Value(d, token + first_token, i));
        pairs = hn::And(first, hn::Set(d32, 0xffff));
      }
      if (second_token < end) {
        const auto second = CodeInteger<Reader>(reader.Value(d, token + second_token, i));
        pairs = hn::Or(pairs, hn::ShiftLeft<16>(second));
      }
      hn::StoreU(pairs, d32, row + i / width * panel_pairs + i % width);
    }
    for (; i % width != 0 || i < head_dim; ++i) {
      const auto value = [&](size_t index) {
        return i < head_dim && index < end
                   ? CodeInteger<Reader>(reader.ValueScalar(token + index, i))
                   : 0;
      };
      row[i / width * panel_pairs + i % width] = PairOf(value(first_token), value(second_token));
    }
  }
}

// The queries as integers, if they are not yet.
void UseCodeQueries(const AttendBlock& block, ManyScratch& scratch) {
  if (scratch.has_codes) {
    return;
  }
  const size_t head_dim = block.params->head_dim;
  const size_t stride = 2 * PairsOf(head_dim);
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const float* q = scratch.q + row * head_dim;
    int16_t* codes = scratch.q_codes + row * stride;
    codes[stride - 1] = 0;
    scratch.q_factors[row] = QuantizeToPairs(q, head_dim, kMaxPairCode, codes);
    scratch.q_sums[row] = std::accumulate(q, q + head_dim, 0.0F);
  }
  scratch.has_codes = true;
}

// The numbers beside the codes of a tile, zeros behind its end.
template <class Reader>
void LoadCodeParams(const Reader& reader,
                    size_t token,
                    size_t begin,
                    size_t end,
                    Columns columns,
                    ManyScratch& scratch) {
  for (size_t t = columns.first; t < columns.last; ++t) {
    const bool is_token = t >= begin && t < end;
    const float key_scale = is_token ? reader.KeyScale(token + t) : 0.0F;
    const float value_scale = is_token ? reader.ValueScale(token + t) : 0.0F;
    scratch.key_scales[t] = key_scale * Reader::kStep;
    scratch.value_scales[t] = value_scale * Reader::kStep;
    if constexpr (Reader::kHasOffset) {
      scratch.key_offsets[t] =
          is_token ? reader.KeyOffset(token + t) + Reader::kCentre * key_scale : 0.0F;
      scratch.value_offsets[t] =
          is_token ? reader.ValueOffset(token + t) + Reader::kCentre * value_scale : 0.0F;
    }
  }
}

// ScoreTile in integers: the scores are in units of the queries' factors and the keys' scales.
template <bool kVnni, class Reader>
void ScoreCodeTile(const AttendBlock& block,
                   const Reader& reader,
                   size_t token,
                   size_t begin,
                   size_t end,
                   ManyScratch& scratch) {
  const size_t head_dim = block.params->head_dim;
  const size_t num_pairs = PairsOf(head_dim);
  const size_t width = PanelWidth();
  for (size_t column = begin; column < end; column += width) {
    const size_t num_keys = std::min(width, end - column);
    for (size_t i = 0; i < num_keys; ++i) {
      KeyPairs(reader, token + column + i, head_dim, scratch.wide_pairs + i * num_pairs);
    }
    PackPanel(scratch.wide_pairs, num_pairs, num_keys, num_pairs, scratch.key_pairs);
    MultiplyPairPanel<kVnni>(scratch.q_codes,
                             2 * num_pairs,
                             block.num_rows(),
                             scratch.key_pairs,
                             num_pairs,
                             SumsToScores{scratch.scores + column, kTileTokens});
  }
}

template <bool kVnni, class Reader>
void AddCodeTile(const AttendBlock& block,
                 const Reader& reader,
                 size_t token,
                 size_t end,
                 Columns columns,
                 ManyScratch& scratch) {
  const auto head_dim = static_cast<size_t>(block.params->head_dim);
  PackValuePairs(reader, token, end, columns, head_dim, scratch.value_pairs);
  for (size_t i = 0; i < head_dim; i += PanelWidth()) {
    MultiplyPairPanel<kVnni>(scratch.weight_codes,
                             kTileTokens,
                             block.num_rows(),
                             scratch.value_pairs + i * PairsOf(kTileTokens),
                             (columns.last - columns.first) / 2,
                             SumsToOutput{block.o + i,
                                          block.o_stride,
                                          scratch.corrections,
                                          scratch.weight_factors,
                                          scratch.offsets});
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
