// kivi4, kivi2: keys in equal steps per channel over groups of tokens, values per token over groups
// of channels (KIVI, 2402.02750; here in groups of 64, and of 32, the paper's own, in kivi4g32 and
// kivi2g32). Keys have channels that are large in every token, values have not: each side is coded
// along the axis on which its numbers are alike. The scalar meaning, for every backend; scale,
// offset and code are those of int_block.h, over a group in place of a row.
//
// Block of keys of one kv head, token_capacity tokens:
//   codes    [tokens, PackedBytes(bits, head_dim)]
//   scales   [groups of tokens, head_dim] half
//   offsets  [groups of tokens, head_dim] half
// Block of values:
//   codes    [tokens, PackedBytes(bits, head_dim)]
//   scales   [tokens, groups of channels] half
//   offsets  [tokens, groups of channels] half
// The last group of either side may be smaller. Bits per value: bits + 32 / group where tokens and
// head_dim are multiples of the group.
#pragma once

#include <cstddef>

#include "kernels/codec/int_block.h"

namespace varve {

VARVE_HD constexpr size_t KiviGroups(size_t count, size_t group) {
  return (count + group - 1) / group;
}

// Byte offsets from the start of a block.
struct KiviLayout {
  size_t row_bytes;
  size_t scales;
  size_t offsets;
  size_t bytes;  // of the block
};

VARVE_HD constexpr KiviLayout KiviKeyLayout(size_t bits,
                                            size_t group,
                                            size_t head_dim,
                                            size_t token_capacity) {
  const size_t row_bytes = PackedBytes(bits, head_dim);
  const size_t params = KiviGroups(token_capacity, group) * head_dim * sizeof(uint16_t);
  const size_t codes = token_capacity * row_bytes;
  return {row_bytes, codes, codes + params, codes + 2 * params};
}

VARVE_HD constexpr KiviLayout KiviValueLayout(size_t bits,
                                              size_t group,
                                              size_t head_dim,
                                              size_t token_capacity) {
  const size_t row_bytes = PackedBytes(bits, head_dim);
  const size_t params = token_capacity * KiviGroups(head_dim, group) * sizeof(uint16_t);
  const size_t codes = token_capacity * row_bytes;
  return {row_bytes, codes, codes + params, codes + 2 * params};
}

}  // namespace varve
