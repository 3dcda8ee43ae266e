// klt4, klt3, klt2, klt1.8: keys before RoPE by a Karhunen-Loeve transform in the metric of the
// queries, values by a Hadamard rotation after their channels were evened out. Keys matter only
// through q.k, and lie close to a few directions; values average out over tokens, where noise that
// is spread over all dimensions is best. The scalar meaning.
//
// Calibrated for each layer and kv head, from keys and queries before RoPE, and from values:
//   mu      mean of the keys
//   S       square root of the mean of q q^T, made equal within each rotary pair (rotations average
//           over distances)
//   U, s    eigenvectors of S cov(k) S and the square roots of its eigenvalues, largest first
//   d       square root of the deviation sqrt(mean of v^2) of each channel of the values
// Keys:     y = U^T S (k - mu) / s: of unit variance, and an error of s * y is one of q.k
// Values:   y = R (v / d), R the rotation of rot_block.h
// A row of y is coded in groups of eight dimensions, of 0 to kKltMaxBits bits each. Of keys they
// are chosen by reverse water-filling: each further bit goes to the group whose distortion it
// lowers most. Of values all groups have the same, or the first ones a bit more than the last.
//   scale   starts as sqrt(mean of y^2 over the dimensions that have bits); kKltRefits times:
//             level = the one of the group's table that is nearest to y / scale
//             scale = <w y, w level> / <w level, w level>: least squares; w: s of keys, 1 of values
//           then rounded to eight bits (KltScaleCode)
//   code    = the level of the group's table that is nearest to y / scale
//   decoded k = mu + scale * S^-1 U (s level),   v = d * R^T (scale * level)
// Tables of 2^bits levels are fitted to the sample's y / norm (Lloyd's algorithm), for each side of
// a layer its own: tails of keys are heavier than normal.
//
// Why d is the root of a deviation: of equally many bits for every dimension of the rotated row, an
// error of channel i has the variance c * d_i^2 * mean of (v_j / d_j)^2 over j; its sum over the
// channels is least where d_i^2 is proportional to the channel's deviation. Channels that are 20
// times as large disturb the others 20 times less than without d. Why eight bits are enough for
// a scale: codes are chosen after it is rounded, which makes up for most of the rounding.
//
// Codes of a token: for each group, `bits` bytes; bit j of byte b is bit b of the group's dimension
// j. Block of one side of one kv head: codes [tokens, row_bytes], then scales [tokens], a byte
// each. Bits per value: (keys' + values') / 2 + 8 / head_dim.
//
// What else was measured, on SmolLM2-135M.
// - Squared error of the scores, keys alone, 2 bits: blocks of 32 and 16 channels on the diagonal
//   in place of the whole matrix, which cost 2 and 4 times less to decode: 1.3 and 1.6 times as
//   much. What is left of the transform after RoPE, where it would fold into the query: 2.7 times.
//   A Hadamard matrix in each group, for lighter tails: 1.05 times. Bits by measured distortion:
//   0.99 times.
// - KL at 2.25 bits: 0.7 bits more for values and less for keys: 1.2 times, and an eighth of what
//   was found among outliers is lost. 0.4 bits more for keys and less for values: 1.4 times. A
//   matrix in place of d, the fourth root of the values' covariance: 0.93 times, for twice the time
//   to decode.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/f16_block.h"
#include "kernels/hd.h"

namespace varve {

inline constexpr size_t kKltGroup = 8;
inline constexpr size_t kKltMaxBits = 6;
inline constexpr int kKltRefits = 3;
// Tables of all bit widths, one behind the other: 2^bits levels from 2^bits - 2 on.
inline constexpr size_t kKltLevels = (size_t{2} << kKltMaxBits) - 2;

// Bits per value, in quarters.
struct KltRate {
  size_t keys = 0;
  size_t values = 0;
};

VARVE_HD constexpr size_t KltLevelsAt(size_t bits) {
  return (size_t{1} << bits) - 2;
}

// head_dim rounded up to whole groups.
VARVE_HD constexpr size_t KltDims(size_t head_dim) {
  return (head_dim + kKltGroup - 1) / kKltGroup * kKltGroup;
}

// Codes of one row, rounded down to whole bytes. quarters: 4 or more.
VARVE_HD constexpr size_t KltRowBytes(size_t quarters, size_t head_dim) {
  return KltDims(head_dim) / kKltGroup * quarters / 4;
}

// The scale as the upper bits of a half that has no sign: five of exponent, three of mantissa. 0:
// all of the row is.
VARVE_HD inline uint8_t KltScaleCode(float scale) {
  return static_cast<uint8_t>((FloatToF16(std::min(scale, kF16Largest)) + 64U) >> 7);
}

VARVE_HD inline float KltScale(uint8_t code) {
  return F16ToFloat(static_cast<uint16_t>(code << 7));
}

template <class Float>
struct KltSide {
  Float* levels;      // [kKltLevels]
  Float* group_bits;  // [dims / 8]
  Float* weights;     // [dims]   s of keys, 1 of values; zero beyond head_dim
};

// The tables of a layer, as floats: levels of keys and of values, then for each kv head group bits
// and weights of keys, the same of values, and the rest in this order.
template <class Float>
struct KltTables {
  KltSide<Float> keys;
  KltSide<Float> values;
  Float* mean;      // [head_dim]
  Float* forward;   // [head_dim, dims]   rows: what one channel of k - mu adds to y
  Float* inverse;   // [dims, head_dim]   rows: what level 1 of one dimension adds to k (s included)
  Float* evenness;  // [head_dim]         d
};

VARVE_HD constexpr size_t KltHeadFloats(size_t head_dim) {
  const size_t dims = KltDims(head_dim);
  return 2 * (dims / kKltGroup + dims) + 2 * head_dim + 2 * dims * head_dim;
}

VARVE_HD constexpr size_t KltTableFloats(size_t num_kv_heads, size_t head_dim) {
  return 2 * kKltLevels + num_kv_heads * KltHeadFloats(head_dim);
}

template <class Float>
VARVE_HD KltTables<Float> KltTablesOf(Float* tables, size_t kv_head, size_t head_dim) {
  const size_t dims = KltDims(head_dim);
  const size_t side = dims / kKltGroup + dims;
  Float* head = tables + 2 * kKltLevels + kv_head * KltHeadFloats(head_dim);
  Float* mean = head + 2 * side;
  Float* forward = mean + head_dim;
  Float* inverse = forward + dims * head_dim;
  return {{tables, head, head + dims / kKltGroup},
          {tables + kKltLevels, head + side, head + side + dims / kKltGroup},
          mean,
          forward,
          inverse,
          inverse + dims * head_dim};
}

}  // namespace varve
