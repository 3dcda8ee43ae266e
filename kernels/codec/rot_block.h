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

// Magnitudes of the levels and the thresholds between them, for unit variance. The lists end with
// 2^(bits - 1) levels and one threshold less.
struct RotTable {
  float levels[kMaxRotLevels];
  float thresholds[kMaxRotLevels - 1];
};

inline constexpr RotTable kRotTables[] = {
    // 2 bits
    {{0.4528F, 1.5104F}, {0.9816F}},
    // 3 bits
    {{0.2451F, 0.7560F, 1.3439F, 2.1520F}, {0.5006F, 1.0500F, 1.7480F}},
    // 4 bits
    {{0.1284F, 0.3881F, 0.6568F, 0.9424F, 1.2562F, 1.6181F, 2.0690F, 2.7326F},
     {0.2582F, 0.5224F, 0.7996F, 1.0993F, 1.4371F, 1.8435F, 2.4008F}},
};

VARVE_HD constexpr const RotTable& RotTableOf(size_t bits) {
  return kRotTables[bits - 2];
}

VARVE_HD constexpr RowFormat RotFormat(size_t bits, size_t head_dim) {
  return {.row_bytes = PackedBytes(bits, head_dim), .num_params = 1};
}

VARVE_HD constexpr float RotLevel(size_t bits, uint32_t code) {
  const uint32_t sign_bit = 1U << (bits - 1);
  const float level = RotTableOf(bits).levels[code & (sign_bit - 1)];
  return (code & sign_bit) != 0 ? -level : level;
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
