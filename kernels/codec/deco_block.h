// deco4: each run's keys, and values, as the product of a small factor in half precision, which
// takes up how unevenly they are spread, and a large one of narrow range in 4 bits (DecoQuant,
// 2405.12591). Without calibration. The scalar meaning.
//
// The paper's decomposition is a matrix product operator: the matrix is reshaped so that one side
// is short, split by a singular value decomposition, and reshaped back. Here, for the matrix X
// [tokens, head_dim] of a run's keys (before RoPE), or values, of one kv head:
//   1. mean    of each channel over the run, taken away: common to all tokens, it belongs to the
//              small part. half
//   2. reshape channel c = a * columns + b of token t is entry (a, (t, b)) of a matrix M with
//              `blocks` rows, which lie head_dim / blocks = columns channels apart
//   3. split   M = U S V^T by Jacobi rotations of M M^T
//   4. small   A = U S / sqrt(tokens * columns), [blocks, blocks], half: it has the outlying rows
//      large   L = A^-1 M, [blocks, (tokens, columns)], whose rows have a mean square of one each.
//      Of
//              directions in which M is zero the rows are zero
//   5. codes   the head_dim entries of L of one token, r * columns + b, as a row of int4: 4 bits in
//              equal steps between the smallest and the largest (int_block.h)
//   decoded x[t, a * columns + b] = mean + sum over r of A[a, r] * L[r, (t, b)]
//
// `blocks` is the largest of 16, 8, 4, 2, 1 that divides head_dim and whose A costs at most a third
// of a bit for each value of the run: short runs have a smaller one. A full change of basis
// (columns = 1) would hold every outlying channel apart, but costs 16 bits at 128 tokens of 128.
//
// The encoder works in double precision and a fixed order, without contraction: the same bytes on
// every machine.
//
// Block of one side of a kv head:
//   mean     [head_dim] half
//   small    [blocks, blocks] half, A row by row
//   codes    [tokens, PackedBytes(4, head_dim)]
//   scales   [tokens] half
//   offsets  [tokens] half
// Bits per value: 4 + 32 / head_dim + 16 / tokens + 16 * blocks^2 / (tokens * head_dim): 4.75 at
// head_dim 64 (8 blocks) and 4.625 at 128 (16 blocks), for 128 tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/int_block.h"
#include "kernels/codec/row_block.h"

namespace varve {

inline constexpr size_t kDecoBits = 4;
inline constexpr size_t kDecoMaxBlocks = 16;

VARVE_HD constexpr size_t DecoBlocks(size_t head_dim, size_t token_capacity) {
  size_t blocks = kDecoMaxBlocks;
  while (blocks > 1 &&
         (head_dim % blocks != 0 || 48 * blocks * blocks > token_capacity * head_dim)) {
    blocks /= 2;
  }
  return blocks;
}

static_assert(DecoBlocks(64, 128) == 8 && DecoBlocks(128, 128) == 16 && DecoBlocks(128, 124) == 16);
static_assert(DecoBlocks(64, 4) == 2 && DecoBlocks(20, 128) == 4 && DecoBlocks(7, 128) == 1);

// Byte offsets from the start of a block; the means stand at 0.
struct DecoLayout {
  size_t blocks;
  size_t columns;
  size_t small;
  size_t codes;
  size_t row_bytes;
  size_t scales;
  size_t offsets;
  size_t bytes;  // of the block
};

VARVE_HD constexpr DecoLayout DecoLayoutOf(size_t head_dim, size_t token_capacity) {
  DecoLayout at{};
  at.blocks = DecoBlocks(head_dim, token_capacity);
  at.columns = head_dim / at.blocks;
  at.small = head_dim * sizeof(uint16_t);
  at.codes = at.small + at.blocks * at.blocks * sizeof(uint16_t);
  at.row_bytes = PackedBytes(kDecoBits, head_dim);
  at.scales = at.codes + token_capacity * at.row_bytes;
  at.offsets = at.scales + token_capacity * sizeof(uint16_t);
  at.bytes = at.offsets + token_capacity * sizeof(uint16_t);
  return at;
}

}  // namespace varve
