// klt4, klt3, klt2: keys before RoPE by a Karhunen-Loeve transform in the metric of the queries,
// values as in rot4, rot3, rot2. Keys matter only through q.k, and lie close to a few directions;
// values average out over tokens, where equal and unbiased noise is best. The scalar meaning.
//
// Calibrated for each layer and kv head, from keys and queries before RoPE:
//   mu      mean of the keys
//   S       square root of the mean of q q^T, made equal within each rotary pair (rotations average
//           over distances)
//   U, s    eigenvectors of S cov(k) S and the square roots of its eigenvalues, largest first
//   y       = U^T S (k - mu) / s: of unit variance, and an error of s * y is one of q.k
// A row of y is coded in groups of eight dimensions, of 0 to kKltMaxBits bits each, chosen by
// reverse water-filling: each further bit goes to the group whose distortion it lowers most.
//   norm    = sqrt(mean of y^2 over the dimensions that have bits)
//   code    = the level of the group's table that is nearest to y / norm
//   scale   = <s y, s level> / <s level, s level>, as half: least squares in the metric of q
//   decoded k = mu + scale * S^-1 U (s level)
// Tables of 2^bits levels are fitted to the calibration's y / norm (Lloyd's algorithm): its tails
// are heavier than normal.
//
// Codes of a token: for each group, `bits` bytes; bit j of byte b is bit b of the group's dimension
// j. Block of keys of one kv head: codes [tokens, row_bytes], then scales [tokens] half.
// Bits per value of the keys: the same as of the values, bits + 16 / head_dim.
//
// Values: rows as in rot_block.h: codes [tokens, PackedBytes(bits)], then scales [tokens] half.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hd.h"

namespace varve {

inline constexpr size_t kKltGroup = 8;
inline constexpr size_t kKltMaxBits = 6;
// Tables of all bit widths, one behind the other: 2^bits levels from 2^bits - 2 on.
inline constexpr size_t kKltLevels = (size_t{2} << kKltMaxBits) - 2;

VARVE_HD constexpr size_t KltLevelsAt(size_t bits) {
  return (size_t{1} << bits) - 2;
}

// head_dim rounded up to whole groups.
VARVE_HD constexpr size_t KltDims(size_t head_dim) {
  return (head_dim + kKltGroup - 1) / kKltGroup * kKltGroup;
}

// Codes of one token's key. Equal to what the values take where head_dim is a multiple of 8.
VARVE_HD constexpr size_t KltRowBytes(size_t bits, size_t head_dim) {
  return KltDims(head_dim) * bits / 8;
}

// The tables of a layer, as floats: kKltLevels levels, then for each kv head
//   group bits  [dims / 8]
//   mu          [head_dim]
//   weights     [dims]             s, zero beyond head_dim
//   forward     [head_dim, dims]   rows: what one channel of k - mu adds to y
//   inverse     [dims, head_dim]   rows: what level 1 of one dimension adds to k (s included)
struct KltTables {
  const float* levels;
  const float* group_bits;
  const float* mean;
  const float* weights;
  const float* forward;
  const float* inverse;
};

VARVE_HD constexpr size_t KltHeadFloats(size_t head_dim) {
  const size_t dims = KltDims(head_dim);
  return dims / kKltGroup + head_dim + dims + 2 * dims * head_dim;
}

VARVE_HD constexpr size_t KltTableFloats(size_t num_kv_heads, size_t head_dim) {
  return kKltLevels + num_kv_heads * KltHeadFloats(head_dim);
}

VARVE_HD inline KltTables KltTablesOf(const float* tables, size_t kv_head, size_t head_dim) {
  const size_t dims = KltDims(head_dim);
  const float* head = tables + kKltLevels + kv_head * KltHeadFloats(head_dim);
  const float* mean = head + dims / kKltGroup;
  const float* weights = mean + head_dim;
  const float* forward = weights + dims;
  return {tables, head, mean, weights, forward, forward + dims * head_dim};
}

}  // namespace varve
