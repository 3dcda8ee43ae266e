// bfloat16: the upper half of a float. The shared scalar meaning of widening and narrowing.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/hd.h"

namespace varve {

VARVE_HD inline float Bf16ToFloat(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

// Rounds to nearest, ties to even; NaN stays NaN (quiet).
VARVE_HD inline uint16_t FloatToBf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffU) > 0x7f800000U) {
    return static_cast<uint16_t>((bits >> 16) | 0x40U);
  }
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// The smallest bfloat16 that is >= value. REQUIRES: value >= 0 and finite, below the largest
// bfloat16.
VARVE_HD inline uint16_t FloatToBf16RoundUp(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0xffffU) >> 16);
}

}  // namespace varve
