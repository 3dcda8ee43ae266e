// fp8: E4M3 floats (Micikevicius et al., 2209.05433) with one scale per row. The scalar meaning,
// for every backend.
//
//   scale = max |x| / 448, as half, rounded up      params[0]
//   code  = x / scale as E4M3, to nearest, ties to even, at most 448
//
// Off by at most |x| / 16 (a half step of three mantissa bits), or scale / 1024 below scale / 64,
// where steps are equal. Inputs are sanitized (f16_block.h). Bits per value: 8 + 16 / head_dim.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/int_block.h"

namespace varve {

inline constexpr float kFp8Largest = 448.0F;

VARVE_HD constexpr RowFormat Fp8Format(size_t head_dim) {
  return {.row_bytes = PackedBytes(8, head_dim), .num_params = 1};
}

// `largest`: the largest magnitude of the row's sanitized values.
VARVE_HD inline uint16_t Fp8Scale(float largest) {
  return FloatToF16RoundUp(largest / kFp8Largest);
}

// `x` in units of the scale; magnitudes above 448 count as 448.
VARVE_HD inline uint8_t FloatToFp8(float x) {
  const float magnitude = fminf(fabsf(x), kFp8Largest);
  const uint8_t sign = x < 0.0F ? 0x80 : 0;
  if (magnitude < 0.015625F) {  // 2^-6: a subnormal, in steps of 2^-9
    return static_cast<uint8_t>(sign | static_cast<uint8_t>(rintf(magnitude * 512.0F)));
  }
  uint32_t bits;
  memcpy(&bits, &magnitude, sizeof(bits));
  const uint32_t odd = bits >> 20 & 1U;
  // Rebias the exponent from 127 to 7.
  return static_cast<uint8_t>(sign | (((bits + 0x7ffffU + odd) >> 20) - (120U << 3)));
}

VARVE_HD inline float Fp8ToFloat(uint8_t code) {
  // The same bits as a half are the number times 2^-8.
  const auto half = static_cast<uint16_t>((code & 0x80U) << 8 | (code & 0x7fU) << 7);
  return F16ToFloat(half) * 256.0F;
}

}  // namespace varve
