// int8: one symmetric scale per token, head and side (K or V). The bytes and the scalar meaning,
// for every backend.
//
//   largest = max |x| over the head_dim values;  scale = largest / 127 rounded up to bfloat16; code
//   = round(x / scale) decoded = code * scale, exact in fp32: 7 + 8 significant bits
//
// The scale is bfloat16 because it then neither overflows nor underflows for any input, and rounded
// up so that no code passes 127; that costs at most 1/128 of the error bound. A code is off by at
// most half a step, so
//   |decoded - x| <= scale / 2 <= max|x| / 127 * (1 + 1/128) / 2.
// NaN is taken as 0, an infinity as the largest magnitude that a run may have (kInt8Largest).
//
// Rows as in row_block.h, one byte per code, the scale as params[0]. Bits per value: 8 + 16 /
// head_dim.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/bf16_block.h"
#include "kernels/codec/row_block.h"
#include "kernels/hd.h"

namespace varve {

inline constexpr float kInt8MaxCode = 127.0F;
inline constexpr float kInt8Largest = 3.0e38F;

VARVE_HD constexpr RowFormat Int8Format(size_t head_dim) {
  return {.row_bytes = head_dim, .num_params = 1};
}

// What an input value counts as.
VARVE_HD inline float Int8Sanitize(float x) {
  if (!(x == x)) {
    return 0.0F;
  }
  return x > kInt8Largest ? kInt8Largest : (x < -kInt8Largest ? -kInt8Largest : x);
}

// `largest` is the largest magnitude of the sanitized values.
VARVE_HD inline uint16_t Int8Scale(float largest) {
  return FloatToBf16RoundUp(largest / kInt8MaxCode);
}

VARVE_HD inline int8_t Int8Code(float x, uint16_t scale) {
  if (scale == 0) {
    return 0;
  }
  return static_cast<int8_t>(rintf(Int8Sanitize(x) / Bf16ToFloat(scale)));
}

VARVE_HD inline float Int8Decode(int8_t code, uint16_t scale) {
  return static_cast<float>(code) * Bf16ToFloat(scale);
}

}  // namespace varve
