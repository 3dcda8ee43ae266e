// pca and pca10: transform coding of all heads of a token together (KVTC, 2511.01815), at 1.0 and
// 1.6 bits per value with everything counted: 16 and 10 times smaller than bf16. For tiers where
// bytes cost more than decoding. The scalar meaning.
//
// The keys of a token, before RoPE, are one vector k of W = num_kv_heads * head_dim channels; so
// are its values. Heads of one layer share much of what they store: a principal component spans all
// of them. Calibrated for each layer and side:
//   mu      mean
//   M       what an error weighs. Of keys: for each kv head the mean of q q^T, made equal within
//           each rotary pair (klt_block.h says why), so that the error is one of q.k. Of values: 1.
//   U, s    eigenvectors of M^1/2 cov M^1/2 and the square roots of its eigenvalues, largest first
//   B       M^-1/2 U s: column c is what component c adds to k
//   y       = B^T M (k - mu) / s^2 = U^T M^1/2 (k - mu) / s: of unit variance
// Components come in groups of eight. A group has 0 to kPcaMaxBits bits for each of its components;
// dynamic programming over all groups of both sides shares out the bytes of a token where they save
// most of the distortion that was measured on the sample (pca_calibration.h says how a distortion
// of keys compares with one of values).
//   norm    = sqrt(mean of y^2 over the components that have bits)
//   code    = the level that is nearest to y / norm; 2^bits levels, fitted to the sample
//   scale   = <s y, s level> / <s level, s level>: least squares; stored in eight bits
//   decoded k = mu + scale * B level
//
// Bytes of a run of `token_capacity` tokens: one row of PcaRowBytes for each token.
//   row     scale of keys 1, scale of values 1, codes of the keys' groups, codes of the values'
//   group   `bits` bytes; bit j of byte b is bit b of the code of its component j
// How many bytes of a row are the keys' is in the tables. What the budget does not fill is zero.
//
// Bits per value: 8 * PcaRowBytes / (2 W): at most the nominal rate, for W of 16 and more. There is
// no entropy coder behind it, as KVTC has: of pages of SmolLM2-135M at 1.0 bit zstd saves nothing
// (level 19: 0.02 %), and the entropy of the codes, each component by itself, is 5 % below their
// bits. Levels fitted to the data are used nearly equally often; KVTC's equal steps are not.
//
// One row codes the same token of all heads. In a pruned run, where heads keep different tokens,
// row t codes the t-th token that each head kept: right, but without what heads share.
//
// Several layers coded together (KVTC codes all of them) would be this with the layers as further
// heads: W grows, M gets more blocks, and a head's part of B is still all that decoding it needs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hd.h"

namespace varve {

inline constexpr size_t kPcaGroup = 8;
inline constexpr size_t kPcaMaxBits = 6;
// Levels of all widths, one behind the other: 2^bits of them from 2^bits - 2 on.
inline constexpr size_t kPcaLevels = (size_t{2} << kPcaMaxBits) - 2;

VARVE_HD constexpr size_t PcaLevelsAt(size_t bits) {
  return (size_t{1} << bits) - 2;
}

// What a value may cost, scales included.
struct PcaRate {
  size_t tenths_of_bit;
};

inline constexpr size_t kPcaScales = 2;  // bytes of a row in front of its codes

// Bytes of one token, K and V of all heads; at least one group of one bit for each side.
VARVE_HD constexpr size_t PcaRowBytes(PcaRate rate, size_t width) {
  const size_t bytes = 2 * width * rate.tenths_of_bit / 80;
  return bytes < kPcaScales + 2 ? kPcaScales + 2 : bytes;
}

VARVE_HD constexpr size_t PcaRoundUp(size_t count) {
  return (count + kPcaGroup - 1) / kPcaGroup * kPcaGroup;
}

// Components of a side for which tables have room. No more get bits: of SmolLM2-135M (W of 192) pca
// uses up to 72 of the keys' and 152 of the values'.
VARVE_HD constexpr size_t PcaKeyComponents(size_t width) {
  return PcaRoundUp((width + 1) / 2);
}
VARVE_HD constexpr size_t PcaValueComponents(size_t width) {
  return PcaRoundUp(width);
}

// Scales are logarithmic, twelve steps to the octave: off by at most 3 %, which costs less than
// 0.0003 of the squared norm on average. 0, then 2^-6 to 2^15.
inline constexpr size_t kPcaScaleCodes = 256;

VARVE_HD inline float PcaScale(uint8_t code) {
  constexpr float kSteps[12] = {1.0F,
                                1.0594631F,
                                1.1224620F,
                                1.1892071F,
                                1.2599210F,
                                1.3348399F,
                                1.4142135F,
                                1.4983071F,
                                1.5874011F,
                                1.6817928F,
                                1.7817974F,
                                1.8877486F};
  if (code == 0) {
    return 0.0F;
  }
  const uint32_t step = code - 1U;
  return kSteps[step % 12] * static_cast<float>(1U << (step / 12)) / 64.0F;
}

// The code whose scale is nearest; of two equally near, the lower.
VARVE_HD inline uint8_t PcaScaleCode(double scale) {
  uint32_t below = 0;  // the highest code known not to be above
  for (uint32_t step = kPcaScaleCodes / 2; step > 0; step /= 2) {
    if (static_cast<double>(PcaScale(static_cast<uint8_t>(below + step))) <= scale) {
      below += step;
    }
  }
  if (below + 1 < kPcaScaleCodes) {
    const double low = PcaScale(static_cast<uint8_t>(below));
    const double high = PcaScale(static_cast<uint8_t>(below + 1));
    below += high - scale < scale - low ? 1 : 0;
  }
  return static_cast<uint8_t>(below);
}

// The tables of a layer, as floats: of the keys, then of the values, C components each,
//   levels      [kPcaLevels]
//   group bits  [C / 8]
//   mu          [W]
//   deviations  [C]       s, zero where the sample does not vary
//   basis       [C, W]    rows: the columns of B
// and then M of the keys, [num_kv_heads, head_dim, head_dim]. With 8 heads of 128 these are 6.5 MiB
// for a layer and rate: half as many components of keys as channels, and all of values.
struct PcaSide {
  const float* levels;
  const float* group_bits;
  const float* mean;
  const float* deviations;
  const float* basis;
  const float* metric;  // M; null: 1
  size_t num_kv_heads;
  size_t head_dim;
  size_t num_groups;
  size_t width() const { return num_kv_heads * head_dim; }
};

VARVE_HD constexpr size_t PcaSideFloats(size_t width, size_t components) {
  return kPcaLevels + components / kPcaGroup + width + components + components * width;
}

VARVE_HD constexpr size_t PcaTableFloats(size_t num_kv_heads, size_t head_dim) {
  const size_t width = num_kv_heads * head_dim;
  return PcaSideFloats(width, PcaKeyComponents(width)) +
         PcaSideFloats(width, PcaValueComponents(width)) + num_kv_heads * head_dim * head_dim;
}

VARVE_HD inline PcaSide PcaSideAt(const float* at,
                                  size_t components,
                                  const float* metric,
                                  size_t num_kv_heads,
                                  size_t head_dim) {
  const float* group_bits = at + kPcaLevels;
  const float* mean = group_bits + components / kPcaGroup;
  const float* deviations = mean + num_kv_heads * head_dim;
  return {at,
          group_bits,
          mean,
          deviations,
          deviations + components,
          metric,
          num_kv_heads,
          head_dim,
          components / kPcaGroup};
}

struct PcaTables {
  PcaSide keys;
  PcaSide values;
};

VARVE_HD inline PcaTables PcaTablesOf(const float* tables, size_t num_kv_heads, size_t head_dim) {
  const size_t width = num_kv_heads * head_dim;
  const float* values = tables + PcaSideFloats(width, PcaKeyComponents(width));
  const float* metric = values + PcaSideFloats(width, PcaValueComponents(width));
  return {PcaSideAt(tables, PcaKeyComponents(width), metric, num_kv_heads, head_dim),
          PcaSideAt(values, PcaValueComponents(width), nullptr, num_kv_heads, head_dim)};
}

VARVE_HD inline size_t PcaGroupBits(const PcaSide& side, size_t group) {
  return static_cast<size_t>(side.group_bits[group]);
}

// Bytes of a side's codes in a row.
VARVE_HD inline size_t PcaCodeBytes(const PcaSide& side) {
  size_t bytes = 0;
  for (size_t group = 0; group < side.num_groups; ++group) {
    bytes += PcaGroupBits(side, group);
  }
  return bytes;
}

// Where one side stands in a row.
struct PcaPlace {
  size_t row_bytes;
  size_t scale;
  size_t codes;
};

VARVE_HD inline PcaPlace PcaKeyPlace(size_t row_bytes) {
  return {row_bytes, 0, kPcaScales};
}
VARVE_HD inline PcaPlace PcaValuePlace(const PcaTables& tables, size_t row_bytes) {
  return {row_bytes, 1, kPcaScales + PcaCodeBytes(tables.keys)};
}

}  // namespace varve
