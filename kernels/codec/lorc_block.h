// lorc: keys and values as a few coefficients of a basis that each layer has for itself, of a rank
// chosen layer by layer (LoRC, 2410.03111). The scalar meaning.
//
// The paper takes its bases from the weights, by a singular value decomposition of W_k and W_v, and
// its ranks from how those matrices are conditioned, all layers taken together, so that shallow
// layers are compressed less. Here both come from a calibration: the principal directions of the
// activations that the weights make of text, which is what is stored, so that at equal rank no
// basis loses less of what was seen; and for each layer and side the rank that retains a stated
// share. A layer gets more where its keys or values lie in more directions, whether it is shallow
// or deep: nothing else favours the first layers.
//
// Calibrated for each layer, kv head and side, from keys before RoPE, values and queries:
//   mean    of the keys, or values
//   S       keys: the square root of the mean of q q^T, made equal within each rotary pair;
//           values: the identity
//   U, s    eigenvectors of S cov(x) S and the square roots of its eigenvalues, largest first
//   rank    of the layer's keys, or values: the smallest multiple of 8 (at most head_dim) from
//           head_dim / 4 on that retains kLorcShare of the sum of s^2 of all kv heads
//   y       = the first `rank` of U^T S (x - mean) / s: of unit variance
// A row of y is coded as one of int4 is: 4 bits in equal steps between its smallest and its largest
// (int_block.h). Its quantiser loses about a hundredth of the energy, as much as the rank leaves
// out.
//   decoded x = mean + S^-1 U (s y)
//
// Block of one side of a kv head:
//   codes    [tokens, PackedBytes(4, rank)]
//   scales   [tokens] half
//   offsets  [tokens] half
// The size of a run thus depends on the layer's tables (Codec::sized_by_tables). Bits per value:
// (4 * (key rank + value rank) + 64) / (2 * head_dim) where ranks are multiples of 16: at head_dim
// 64 from 1.5, with ranks of 16, to 4.5.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/row_block.h"

namespace varve {

inline constexpr double kLorcShare = 0.99;
inline constexpr size_t kLorcBits = 4;
inline constexpr size_t kLorcRankStep = 8;

// The smallest rank that is tried.
constexpr size_t LorcLeastRank(size_t head_dim) {
  const size_t quarter = (head_dim + 3) / 4;
  return std::min(head_dim, (quarter + kLorcRankStep - 1) / kLorcRankStep * kLorcRankStep);
}

// Byte offsets from the start of a block.
struct LorcLayout {
  size_t row_bytes;
  size_t scales;
  size_t offsets;
  size_t bytes;  // of the block
};

constexpr LorcLayout LorcLayoutOf(size_t rank, size_t token_capacity) {
  const size_t row_bytes = PackedBytes(kLorcBits, rank);
  const size_t scales = token_capacity * row_bytes;
  const size_t offsets = scales + token_capacity * sizeof(uint16_t);
  return {row_bytes, scales, offsets, offsets + token_capacity * sizeof(uint16_t)};
}

// The tables of a layer, as floats: the rank of the keys, of the values, then for each kv head
// those of the keys, then of the values. Columns (rows) behind the rank are zero.
struct LorcTables {
  size_t rank;
  const float* mean;     // [head_dim]
  const float* forward;  // [head_dim, head_dim]: rows are what one channel of x - mean adds to y
  const float*
      inverse;  // [head_dim, head_dim]: rows are what one entry of y adds to x (s included)
};

constexpr size_t LorcSideFloats(size_t head_dim) {
  return head_dim + 2 * head_dim * head_dim;
}

constexpr size_t LorcTableFloats(size_t num_kv_heads, size_t head_dim) {
  return 2 + num_kv_heads * 2 * LorcSideFloats(head_dim);
}

// head_dim, the most, without tables.
inline size_t LorcRank(const float* tables, bool is_key, size_t head_dim) {
  return tables == nullptr ? head_dim : static_cast<size_t>(tables[is_key ? 0 : 1]);
}

inline LorcTables LorcTablesOf(const float* tables, size_t kv_head, bool is_key, size_t head_dim) {
  const float* side = tables + 2 + (2 * kv_head + (is_key ? 0 : 1)) * LorcSideFloats(head_dim);
  return {LorcRank(tables, is_key, head_dim),
          side,
          side + head_dim,
          side + head_dim + head_dim * head_dim};
}

}  // namespace varve
