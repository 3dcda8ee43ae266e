// Packs and unpacks rows of codes, eight values at a time; the meaning is PackCode and UnpackCode
// (row_block.h).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/codec/row_block.h"
#include "kernels/cpu/attend_plan.h"

namespace varve {

// Codes of one row, one per byte, zero from head_dim on.
struct RowCodes {
  static constexpr size_t kSize = kMaxHeadDim + 64;  // up to the end of the last unit
  alignas(64) uint8_t codes[kSize];
};

inline constexpr uint64_t kEachByte = 0x0101010101010101U;

// Bits [first_bit, first_bit + bits) of all codes into one plane.
inline void PackPlane(const RowCodes& row,
                      size_t first_bit,
                      size_t bits,
                      size_t head_dim,
                      std::byte* plane) {
  const size_t unit_values = 8 * kUnitBytes / bits;
  const uint64_t mask = kEachByte * ((1U << bits) - 1);
  for (size_t unit = 0; unit * unit_values < head_dim; ++unit) {
    uint64_t packed = 0;
    for (size_t part = 0; part < unit_values / 8; ++part) {
      uint64_t eight;
      std::memcpy(&eight, row.codes + unit * unit_values + part * 8, sizeof(eight));
      packed |= (eight >> first_bit & mask) << (part * bits);
    }
    std::memcpy(plane + unit * kUnitBytes, &packed, sizeof(packed));
  }
}

inline void PackRow(const RowCodes& row, size_t bits, size_t head_dim, std::byte* packed) {
  if (bits == 3) {
    PackPlane(row, 0, 2, head_dim, packed);
    PackPlane(row, 2, 1, head_dim, packed + PlaneBytes(2, head_dim));
  } else {
    PackPlane(row, 0, bits, head_dim, packed);
  }
}

inline void UnpackPlane(const std::byte* plane,
                        size_t first_bit,
                        size_t bits,
                        size_t head_dim,
                        RowCodes* row) {
  const size_t unit_values = 8 * kUnitBytes / bits;
  const uint64_t mask = kEachByte * ((1U << bits) - 1);
  for (size_t unit = 0; unit * unit_values < head_dim; ++unit) {
    uint64_t packed;
    std::memcpy(&packed, plane + unit * kUnitBytes, sizeof(packed));
    for (size_t part = 0; part < unit_values / 8; ++part) {
      uint8_t* target = row->codes + unit * unit_values + part * 8;
      uint64_t eight;
      std::memcpy(&eight, target, sizeof(eight));
      eight |= (packed >> (part * bits) & mask) << first_bit;
      std::memcpy(target, &eight, sizeof(eight));
    }
  }
}

inline void UnpackRow(const std::byte* packed, size_t bits, size_t head_dim, RowCodes* row) {
  std::fill_n(row->codes, RowCodes::kSize, uint8_t{0});
  if (bits == 3) {
    UnpackPlane(packed, 0, 2, head_dim, row);
    UnpackPlane(packed + PlaneBytes(2, head_dim), 2, 1, head_dim, row);
  } else {
    UnpackPlane(packed, 0, bits, head_dim, row);
  }
}

}  // namespace varve
