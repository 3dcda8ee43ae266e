// rvq8, rvq4, rvq8-2k: residual vector quantisation of groups of 32 channels (Kumar, "Residual
// vector quantization for KV cache compression in large language model", 2410.15704). Keys before
// RoPE. The scalar meaning.
//
// Calibrated for each layer: a codebook for each stage of the keys and for each of the values,
// shared by the heads of the layer and by the groups of a row. 8 stages of 256 codewords (rvq8), 4
// of 256 (rvq4), 8 of 2,048 (rvq8-2k, the paper's own size).
//
//   scale = root of the mean square of the row, as half. The paper divides by the deviation from
//           the row's mean; where that mean is zero it is the same, and a row that hardly varies
//           does not become large.
//   r     = the channels of a group, divided by the scale
//   stage s = 0, 1, ...: index = that of the codeword c of stage s with the least |c|^2 - 2 r.c
//           (in fp32, summed over the channels in order; the lowest of equal ones); r -= c
//   decoded = scale * (sum of the codewords, in the order of the stages)
//
// Groups. Of values: 32 consecutive channels. Of keys: with G groups, channels j, j + G, j + 2 G,
// ... are group j (the paper's transposition of 32 x G). Where head_dim is no multiple of 32, the
// channels from head_dim on are zero before the codeword is sought, and are not decoded: the last
// group of a row of values is short, and the groups of a row of keys are all shorter by about as
// much. They cost what whole groups cost.
// Rows whose scale is zero have indices of zero.
//
// Block of the keys, or of the values, of one kv head: indices [tokens, groups, group bytes], then
// scales [tokens] half. The indices of a group lie one behind the other, stage 0 in the lowest
// bits, 8 or 11 bits each: 8, 4 or 11 bytes.
// Bits per value where head_dim is a multiple of 32: 2, 1 or 2.75, and 16 / head_dim.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hd.h"

namespace varve {

inline constexpr size_t kRvqGroup = 32;
inline constexpr size_t kRvqMaxStages = 8;
// Of a codeword's channel, by magnitude: scaled rows have a mean square of one.
inline constexpr float kRvqLargestWeight = 100.0F;

struct RvqFormat {
  size_t stages;      // at most kRvqMaxStages
  size_t index_bits;  // stages * index_bits is a multiple of 8
};

VARVE_HD constexpr size_t RvqEntries(const RvqFormat& format) {
  return size_t{1} << format.index_bits;
}

VARVE_HD constexpr size_t RvqGroups(size_t head_dim) {
  return (head_dim + kRvqGroup - 1) / kRvqGroup;
}

// The channel that is number `i` of a group; from head_dim on there is none.
VARVE_HD constexpr size_t RvqChannel(bool is_key, size_t num_groups, size_t group, size_t i) {
  return is_key ? i * num_groups + group : group * kRvqGroup + i;
}

VARVE_HD constexpr size_t RvqGroupBytes(const RvqFormat& format) {
  return format.stages * format.index_bits / 8;
}

VARVE_HD constexpr size_t RvqRowBytes(const RvqFormat& format, size_t head_dim) {
  return RvqGroups(head_dim) * RvqGroupBytes(format);
}

// Of one side of one kv head.
VARVE_HD constexpr size_t RvqBlockBytes(const RvqFormat& format,
                                        size_t head_dim,
                                        size_t token_capacity) {
  return token_capacity * (RvqRowBytes(format, head_dim) + sizeof(uint16_t));
}

// The index of one stage in the bytes of a group.
VARVE_HD inline uint32_t RvqIndex(const std::byte* group, const RvqFormat& format, size_t stage) {
  const size_t first_bit = stage * format.index_bits;
  const size_t end_byte = (first_bit + format.index_bits + 7) / 8;
  uint32_t bits = 0;
  for (size_t byte = first_bit / 8; byte < end_byte; ++byte) {
    bits |= static_cast<uint32_t>(group[byte]) << (byte - first_bit / 8) * 8;
  }
  return bits >> first_bit % 8 & ((1U << format.index_bits) - 1);
}

// The group must have been zero before its first index.
VARVE_HD inline void SetRvqIndex(std::byte* group,
                                 const RvqFormat& format,
                                 size_t stage,
                                 uint32_t index) {
  const size_t first_bit = stage * format.index_bits;
  const size_t end_byte = (first_bit + format.index_bits + 7) / 8;
  for (size_t byte = first_bit / 8; byte < end_byte; ++byte) {
    const uint32_t bits = index << first_bit % 8 >> (byte - first_bit / 8) * 8 & 0xffU;
    group[byte] = static_cast<std::byte>(static_cast<uint32_t>(group[byte]) | bits);
  }
}

// The tables of a layer, as floats: the codebooks of the keys [stages, entries, 32], then those of
// the values.
VARVE_HD constexpr size_t RvqSideFloats(const RvqFormat& format) {
  return format.stages * RvqEntries(format) * kRvqGroup;
}

VARVE_HD constexpr size_t RvqTableFloats(const RvqFormat& format) {
  return 2 * RvqSideFloats(format);
}

static_assert(RvqGroupBytes({8, 8}) == 8 && RvqGroupBytes({4, 8}) == 4);
static_assert(RvqGroupBytes({8, 11}) == 11);

}  // namespace varve
