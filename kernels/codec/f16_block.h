// IEEE 754 half precision in integers: the scalar meaning of the scales and offsets that codecs
// store, for every backend.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/hd.h"

namespace varve {

// The largest magnitude that codecs with half-precision scales take; larger ones count as it.
inline constexpr float kF16Largest = 60000.0F;

// To nearest, ties to even. Magnitudes that round beyond 65504 become infinity.
VARVE_HD inline uint16_t FloatToF16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return static_cast<uint16_t>(sign | 0x7e00U);
  }
  if (magnitude >= 0x47800000U) {  // 2^16
    return static_cast<uint16_t>(sign | 0x7c00U);
  }
  if (magnitude < 0x38800000U) {  // below 2^-14: a subnormal half, in steps of 2^-24
    float value;
    memcpy(&value, &magnitude, sizeof(value));
    // Adding 1/2 leaves exactly the steps of 2^-24 in the low bits, rounded as wanted.
    value += 0.5F;
    uint32_t rounded;
    memcpy(&rounded, &value, sizeof(rounded));
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000U));
  }
  const uint32_t odd = magnitude >> 13 & 1U;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
}

// Exact.
VARVE_HD inline float F16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t magnitude = half & 0x7fffU;
  uint32_t bits;
  if (magnitude >= 0x7c00U) {
    bits = sign | 0x7f800000U | (magnitude & 0x3ffU) << 13;
  } else if (magnitude >= 0x400U) {
    bits = sign | ((magnitude << 13) + 0x38000000U);
  } else {
    const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8F;  // 2^-24
    memcpy(&bits, &value, sizeof(bits));
    bits |= sign;
  }
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// What an input value counts as: NaN is 0, magnitudes end at kF16Largest.
VARVE_HD inline float F16Sanitize(float x) {
  if (!(x == x)) {
    return 0.0F;
  }
  return x > kF16Largest ? kF16Largest : (x < -kF16Largest ? -kF16Largest : x);
}

}  // namespace varve
