// think: of each run's keys only the channels that queries notice (ThinK, 2407.21018). The scalar
// meaning.
//
// For each run and kv head, kThinkPrunedPercent of the key channels (the paper's lambda, of which
// it tries 40 to 60) are pruned, those with the smallest
//   score = ||q_c|| * ||k_c - mean_c||
// with q_c from a calibration, the root of the mean of q^2 (made equal within each rotary pair),
// and k_c the run's own keys before RoPE. The paper takes the last 32 queries of the prompt; a run
// of a context that many questions will be asked has none of them yet, so its choice depends on its
// keys alone. What a pruned channel decodes to is not zero, as in the paper, but its mean over the
// run: a pruned channel loses what its keys differ by, no more, which is also why the score is
// taken about the mean. Of equal scores the lower channel is kept.
//
// Keys, of the channels that are kept: the difference from the mean, 4 bits in equal steps for each
// token (int_block.h). Values: rows of int4.
//
// Block of keys of one kv head:
//   mask     [head_dim] bits, bit i % 8 of byte i / 8: channel i is kept; whole bytes
//   means    [head_dim] half
//   codes    [tokens, PackedBytes(4, kept)], channels in ascending order
//   scales   [tokens] half
//   offsets  [tokens] half
// Block of values: codes [tokens, PackedBytes(4, head_dim)], scales [tokens], offsets [tokens].
// Bits per value: (4 * kept / head_dim + 4) / 2 + 32 / head_dim + 17 / 2 / tokens: 3.566 at
// head_dim 64 and 3.316 at 128, for 128 tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/int_block.h"
#include "kernels/codec/row_block.h"

namespace varve {

inline constexpr size_t kThinkPrunedPercent = 50;
inline constexpr size_t kThinkBits = 4;

// Key channels that stay.
VARVE_HD constexpr size_t ThinkKept(size_t head_dim) {
  return head_dim - head_dim * kThinkPrunedPercent / 100;
}

// Byte offsets from the start of a block.
struct ThinkLayout {
  size_t means;
  size_t codes;
  size_t row_bytes;
  size_t scales;
  size_t offsets;
  size_t bytes;  // of the block
};

VARVE_HD constexpr ThinkLayout ThinkLayoutOf(size_t means,
                                             size_t codes,
                                             size_t row_bytes,
                                             size_t token_capacity) {
  const size_t scales = codes + token_capacity * row_bytes;
  const size_t offsets = scales + token_capacity * sizeof(uint16_t);
  return {means, codes, row_bytes, scales, offsets, offsets + token_capacity * sizeof(uint16_t)};
}

VARVE_HD constexpr ThinkLayout ThinkKeyLayout(size_t head_dim, size_t token_capacity) {
  const size_t mask = (head_dim + 7) / 8;
  return ThinkLayoutOf(mask,
                       mask + head_dim * sizeof(uint16_t),
                       PackedBytes(kThinkBits, ThinkKept(head_dim)),
                       token_capacity);
}

VARVE_HD constexpr ThinkLayout ThinkValueLayout(size_t head_dim, size_t token_capacity) {
  return ThinkLayoutOf(0, 0, PackedBytes(kThinkBits, head_dim), token_capacity);
}

// Where each channel stands in a coded row, by the mask: its rank among those that are kept, or
// ThinkKept(head_dim) for one that is pruned. A mask with more bits than it should have counts
// without those. places: [head_dim].
VARVE_HD inline void ThinkPlaces(const std::byte* mask, size_t head_dim, int32_t* places) {
  const size_t kept = ThinkKept(head_dim);
  size_t rank = 0;
  for (size_t i = 0; i < head_dim; ++i) {
    const bool stays = (static_cast<uint32_t>(mask[i / 8]) >> i % 8 & 1U) != 0 && rank < kept;
    places[i] = static_cast<int32_t>(stays ? rank : kept);
    rank += stays ? 1 : 0;
  }
}

// The tables of a layer, as floats: for each kv head ||q_c||, [head_dim].
VARVE_HD constexpr size_t ThinkTableFloats(size_t num_kv_heads, size_t head_dim) {
  return num_kv_heads * head_dim;
}

}  // namespace varve
