// Codecs that code each row (one kv head of one token, K or V) by itself: where the bytes of a run
// lie, and how codes of fewer than eight bits are packed. Shared by every backend.
//
// For each kv head, token_capacity tokens:
//   K codes  [tokens, row_bytes]      V codes  [tokens, row_bytes]
//   K params [num_params, tokens]     V params [num_params, tokens]
// A param is 16 bits: a scale, an offset; the codec says which and in what format.
//
// Packing. Codes of `bits` (1, 2, 4 or 8) bits lie in units of 8 bytes, which hold 64 / bits
// values: byte j of a unit holds values j, j + 8, j + 16, ... of the unit, the first in its lowest
// bits. Eight consecutive values, the granule of the vector units, are then eight consecutive bytes
// shifted alike. Codes of 3 bits are two planes: the lower 2 bits of all values, then the third
// bits. The last unit of a plane is padded with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hd.h"

namespace varve {

struct RowFormat {
  size_t row_bytes = 0;   // codes of one row
  size_t num_params = 0;  // of one row
};

struct RowLayout {
  size_t k_codes;  // byte offsets from the start of the run
  size_t v_codes;
  size_t k_params;
  size_t v_params;
};

VARVE_HD constexpr size_t RowHeadBytes(const RowFormat& format, size_t token_capacity) {
  return 2 * token_capacity * (format.row_bytes + format.num_params * sizeof(uint16_t));
}

VARVE_HD constexpr RowLayout RowLayoutOfHead(const RowFormat& format,
                                             size_t kv_head,
                                             size_t token_capacity) {
  const size_t begin = kv_head * RowHeadBytes(format, token_capacity);
  const size_t codes = token_capacity * format.row_bytes;
  const size_t params = token_capacity * format.num_params * sizeof(uint16_t);
  return {begin, begin + codes, begin + 2 * codes, begin + 2 * codes + params};
}

// Runs of keys alone: for each kv head K codes, then K params.
VARVE_HD constexpr size_t KeyHeadBytes(const RowFormat& format, size_t token_capacity) {
  return RowHeadBytes(format, token_capacity) / 2;
}

// Values are said to lie where the keys do: there are none.
VARVE_HD constexpr RowLayout KeyLayoutOfHead(const RowFormat& format,
                                             size_t kv_head,
                                             size_t token_capacity) {
  const size_t begin = kv_head * KeyHeadBytes(format, token_capacity);
  const size_t params = begin + token_capacity * format.row_bytes;
  return {begin, begin, params, params};
}

inline constexpr size_t kUnitBytes = 8;

// One plane of `bits`-bit codes of `head_dim` values.
VARVE_HD constexpr size_t PlaneBytes(size_t bits, size_t head_dim) {
  const size_t unit_values = 8 * kUnitBytes / bits;
  return (head_dim + unit_values - 1) / unit_values * kUnitBytes;
}

// Codes of 2, 3, 4 or 8 bits of a row.
VARVE_HD constexpr size_t PackedBytes(size_t bits, size_t head_dim) {
  return bits == 3 ? PlaneBytes(2, head_dim) + PlaneBytes(1, head_dim) : PlaneBytes(bits, head_dim);
}

static_assert(PackedBytes(4, 128) == 64 && PackedBytes(3, 128) == 48 && PackedBytes(2, 128) == 32);
static_assert(PackedBytes(2, 80) == 24 && PackedBytes(3, 64) == 24 && PackedBytes(8, 20) == 24);

// Where value `index` lies in a plane.
struct PackedPlace {
  size_t byte;
  size_t shift;
};

VARVE_HD constexpr PackedPlace PlaceOf(size_t bits, size_t index) {
  const size_t unit_values = 8 * kUnitBytes / bits;
  return {index / unit_values * kUnitBytes + index % 8, index % unit_values / 8 * bits};
}

// Code number `index` of a packed row.
VARVE_HD inline uint32_t UnpackCode(const std::byte* row,
                                    size_t bits,
                                    size_t head_dim,
                                    size_t index) {
  if (bits == 3) {
    const PackedPlace low = PlaceOf(2, index);
    const PackedPlace high = PlaceOf(1, index);
    const uint32_t low_bits = static_cast<uint32_t>(row[low.byte]) >> low.shift & 3U;
    const auto high_byte = static_cast<uint32_t>(row[PlaneBytes(2, head_dim) + high.byte]);
    return low_bits | (high_byte >> high.shift & 1U) << 2;
  }
  const PackedPlace place = PlaceOf(bits, index);
  return static_cast<uint32_t>(row[place.byte]) >> place.shift & ((1U << bits) - 1);
}

// Sets bits of a byte; std::byte's own operator is not for CUDA.
VARVE_HD inline void SetBits(std::byte& byte, uint32_t bits) {
  byte = static_cast<std::byte>(static_cast<uint32_t>(byte) | bits);
}

// The row must have been zero before its first code.
VARVE_HD inline void PackCode(std::byte* row,
                              size_t bits,
                              size_t head_dim,
                              size_t index,
                              uint32_t code) {
  if (bits == 3) {
    const PackedPlace low = PlaceOf(2, index);
    const PackedPlace high = PlaceOf(1, index);
    SetBits(row[low.byte], (code & 3U) << low.shift);
    SetBits(row[PlaneBytes(2, head_dim) + high.byte], (code >> 2) << high.shift);
    return;
  }
  const PackedPlace place = PlaceOf(bits, index);
  SetBits(row[place.byte], code << place.shift);
}

}  // namespace varve
