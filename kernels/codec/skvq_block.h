// skvq4, skvq2: channels in an order that puts similar ones into one group, steps between clipped
// ends for each token and group, scales and offsets of 8 bits (SKVQ, 2405.06219). The scalar
// meaning. The paper's sinks and window are exact anyway (codec.h).
//
// Calibrated for each layer, kv head and side:
//   place   where each channel stands in an order of similar ones: k-means over the channels' lower
//           and upper tails, clusters by width; groups of equal size are cut from that order
//   centre  mean of each channel. The paper has none: E4M3 keeps four bits of an offset, too few
//           for keys whose channels have large means; without them offsets are small
//   alpha   of each group, in (0, 1], what is kept of the range: the one with the least error of a
//           sample, for keys weighted with the mean of q^2 (made equal within each rotary pair), as
//           errors of different channels hardly correlate; for values all alike
// Keys are coded before RoPE, the paper's `pre_rope` mode: after it the two channels of a pair turn
// into one another, and neither their order nor their means would hold from token to token.
//
// One token and group, y = x - centre of its channels, unit = half, one for scales and one for
// offsets of a run and group:
//   low, high = ends of the range [min y, max y], shrunk around its middle by alpha
//   offset    = low, as E4M3 times unit
//   scale     = (high - offset) / (2^bits - 1), as E4M3 times unit
//   code      = round((y - offset) / scale), within 0 .. 2^bits - 1
//   decoded x = code * scale + offset + centre
//   unit      = (largest magnitude of the run's offsets, or scales) / 448, rounded up
//
// Two groups or more, of at most 64 channels and a multiple of 8: with a single group there would
// be nothing to order. Block of one side of a kv head:
//   units    [groups] half of scales, [groups] half of offsets
//   codes    [tokens, PackedBytes(bits, head_dim)], in the order of the channels
//   scales   [tokens, groups] E4M3
//   offsets  [tokens, groups] E4M3
// Bits per value: bits + 16 / group + 32 / (tokens * group), where groups are full: 4.508 and 2.508
// at head_dim 64, 4.254 and 2.254 at 128, for 128 tokens.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/fp8_block.h"
#include "kernels/codec/row_block.h"

namespace varve {

inline constexpr size_t kSkvqMaxGroup = 64;
inline constexpr size_t kSkvqMaxGroups = 4;

// Channels of a group.
VARVE_HD constexpr size_t SkvqGroup(size_t head_dim) {
  const size_t wanted = (head_dim + kSkvqMaxGroup - 1) / kSkvqMaxGroup;
  const size_t groups = wanted < 2 ? 2 : wanted;
  return ((head_dim + groups - 1) / groups + 7) / 8 * 8;
}

VARVE_HD constexpr size_t SkvqGroups(size_t head_dim) {
  return (head_dim + SkvqGroup(head_dim) - 1) / SkvqGroup(head_dim);
}

static_assert(SkvqGroup(64) == 32 && SkvqGroup(128) == 64 && SkvqGroup(256) == 64);
static_assert(SkvqGroup(80) == 40 && SkvqGroups(80) == 2 && SkvqGroups(8) == 1);
static_assert(SkvqGroups(256) == kSkvqMaxGroups);

// Byte offsets from the start of a block; the units of scales stand at 0.
struct SkvqLayout {
  size_t group;   // channels
  size_t groups;  // of a row
  size_t row_bytes;
  size_t offset_units;
  size_t codes;
  size_t scales;
  size_t offsets;
  size_t bytes;  // of the block
};

VARVE_HD constexpr SkvqLayout SkvqLayoutOf(size_t bits, size_t head_dim, size_t token_capacity) {
  SkvqLayout at{};
  at.group = SkvqGroup(head_dim);
  at.groups = SkvqGroups(head_dim);
  at.row_bytes = PackedBytes(bits, head_dim);
  at.offset_units = at.groups * sizeof(uint16_t);
  at.codes = 2 * at.groups * sizeof(uint16_t);
  at.scales = at.codes + token_capacity * at.row_bytes;
  at.offsets = at.scales + token_capacity * at.groups;
  at.bytes = at.offsets + token_capacity * at.groups;
  return at;
}

VARVE_HD inline float SkvqLow(float alpha, float smallest, float largest) {
  return smallest + (largest - smallest) * ((1.0F - alpha) * 0.5F);
}

VARVE_HD inline float SkvqHigh(float alpha, float smallest, float largest) {
  return largest - (largest - smallest) * ((1.0F - alpha) * 0.5F);
}

// A scale or an offset in its unit.
VARVE_HD inline uint8_t SkvqFp8(float x, float unit) {
  return unit > 0.0F ? FloatToFp8(x / unit) : 0;
}

VARVE_HD inline uint32_t SkvqCode(size_t bits, float y, float scale, float offset) {
  if (!(scale > 0.0F)) {
    return 0;
  }
  const float largest = static_cast<float>((1U << bits) - 1);
  const float code = rintf((y - offset) / scale);
  return static_cast<uint32_t>(code < 0.0F ? 0.0F : (code > largest ? largest : code));
}

VARVE_HD inline float SkvqDecode(uint32_t code, float scale, float offset, float centre) {
  const float step = static_cast<float>(code) * scale;
  return step + offset + centre;
}

// The tables of a layer, as floats: for each kv head those of the keys, then of the values.
struct SkvqTables {
  const float* place;   // [head_dim], a permutation
  const float* centre;  // [head_dim]
  const float* alphas;  // [groups]
};

VARVE_HD constexpr size_t SkvqSideFloats(size_t head_dim) {
  return 2 * head_dim + SkvqGroups(head_dim);
}

VARVE_HD constexpr size_t SkvqTableFloats(size_t num_kv_heads, size_t head_dim) {
  return num_kv_heads * 2 * SkvqSideFloats(head_dim);
}

VARVE_HD inline SkvqTables SkvqTablesOf(const float* tables,
                                        size_t kv_head,
                                        bool is_key,
                                        size_t head_dim) {
  const float* side = tables + (2 * kv_head + (is_key ? 0 : 1)) * SkvqSideFloats(head_dim);
  return {side, side + head_dim, side + 2 * head_dim};
}

// Where channel `i` stands.
VARVE_HD inline size_t SkvqPlace(const SkvqTables& tables, size_t i) {
  return static_cast<size_t>(tables.place[i]);
}

VARVE_HD inline size_t SkvqGroupOf(const SkvqTables& tables, size_t head_dim, size_t i) {
  return SkvqPlace(tables, i) / SkvqGroup(head_dim);
}

}  // namespace varve
