// rot4, rot3, rot2: a Hadamard rotation with fixed signs, one scale per row, Lloyd-Max levels of
// the normal distribution (the data-oblivious scheme of TurboQuant, 2504.19874, without its second
// stage; rotation as in QuaRot, 2404.00456). The scalar meaning, for every backend.
//
//   y      = H (s * x) / sqrt(P)      s: fixed signs; H: Hadamard matrices of the largest power of
//                                     two P that divides head_dim, side by side
//   sigma  = sqrt(mean of y^2)
//   code   = sign bit (the highest) and the number of thresholds * sigma that |y| exceeds
//   scale  = (sum of y * level) / (sum of level^2), as half: least squares      params[0]
//   decoded y = scale * level, and x = s * (H y / sqrt(P))
//
// A rotation keeps dot products: attention rotates the query once and turns its output back once,
// instead of every key and value. After the rotation the coordinates of almost every row are close
// to normal, whatever its outliers were.
//
// The error of a row is at most its norm, and on average 0.0095, 0.0345 and 0.1175 of its squared
// norm for 4, 3 and 2 bits (J. Max, 1960: the distortion of the optimal quantiser of a normal
// source). Inputs are sanitized (f16_block.h). Bits per value: bits + 16 / head_dim.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/f16_block.h"
#include "kernels/codec/row_block.h"

namespace varve {

inline constexpr size_t kMaxRotLevels = 8;  // magnitudes of 4 bits

// Max's magnitudes of the levels and the thresholds between them, for unit variance. The levels are
// rounded to 127ths of the largest, so that integer arithmetic is exact on them; that costs less
// than a hundredth of the distortion. The lists end with 2^(bits - 1) levels and one threshold
// less.
struct RotTable {
  float step;
  int8_t levels[kMaxRotLevels];  // in steps
  float thresholds[kMaxRotLevels - 1];
};

inline constexpr RotTable kRotTables[] = {
    // 2 bits: 0.4528, 1.5104
    {1.5104F / 127.0F, {38, 127}, {0.9816F}},
    // 3 bits: 0.2451, 0.7560, 1.3439, 2.1520
    {2.1520F / 127.0F, {14, 45, 79, 127}, {0.5006F, 1.0500F, 1.7480F}},
    // 4 bits: 0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326
    {2.7326F / 127.0F,
     {6, 18, 31, 44, 58, 75, 96, 127},
     {0.2582F, 0.5224F, 0.7996F, 1.0993F, 1.4371F, 1.8435F, 2.4008F}},
};

VARVE_HD constexpr const RotTable& RotTableOf(size_t bits) {
  return kRotTables[bits - 2];
}

VARVE_HD constexpr RowFormat RotFormat(size_t bits, size_t head_dim) {
  return {.row_bytes = PackedBytes(bits, head_dim), .num_params = 1};
}

// In steps.
VARVE_HD constexpr int8_t RotCodeLevel(size_t bits, uint32_t code) {
  const uint32_t sign_bit = 1U << (bits - 1);
  const int8_t level = RotTableOf(bits).levels[code & (sign_bit - 1)];
  return static_cast<int8_t>((code & sign_bit) != 0 ? -level : level);
}

VARVE_HD constexpr float RotLevel(size_t bits, uint32_t code) {
  return static_cast<float>(RotCodeLevel(bits, code)) * RotTableOf(bits).step;
}

// The size of the Hadamard matrices.
VARVE_HD constexpr size_t RotSize(size_t head_dim) {
  return head_dim & (~head_dim + 1);
}

// +1 or -1, the same for every model: never to be changed without a new codec version.
VARVE_HD constexpr float RotSign(size_t dim) {
  uint32_t x = static_cast<uint32_t>(dim) + 0x9e3779b9U;
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  x ^= x >> 16;
  return (x & 1U) != 0 ? -1.0F : 1.0F;
}

}  // namespace varve
