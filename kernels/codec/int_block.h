// int4, int3, int2: each row between its smallest and its largest value, in equal steps (round to
// nearest with a zero point, as in ZeroQuant, 2206.01861, and FlexGen, 2303.06865: the baseline
// that every KV codec is compared with). The scalar meaning, for every backend.
//
//   offset = min x, as half                          params[1]
//   scale  = (max x - offset) / (2^bits - 1), as half, rounded up      params[0]
//   code   = round((x - offset) / scale), within 0 .. 2^bits - 1;      decoded = offset + scale *
//   code
//
// Off by at most scale / 2 + |min x| * 2^-11 + 2^-25: the offset is rounded, too. Inputs are
// sanitized (f16_block.h). Bits per value: bits + 32 / head_dim.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/f16_block.h"
#include "kernels/codec/row_block.h"

namespace varve {

inline constexpr size_t kIntScale = 0;
inline constexpr size_t kIntOffset = 1;

VARVE_HD constexpr RowFormat IntFormat(size_t bits, size_t head_dim) {
  return {.row_bytes = PackedBytes(bits, head_dim), .num_params = 2};
}

// The smallest half that is not below `x` >= 0.
VARVE_HD inline uint16_t FloatToF16RoundUp(float x) {
  const uint16_t half = FloatToF16(x);
  return F16ToFloat(half) < x ? static_cast<uint16_t>(half + 1) : half;
}

// `largest` and `offset`: of the row's sanitized values, the offset as stored.
VARVE_HD inline uint16_t IntScale(size_t bits, float largest, float offset) {
  const float range = largest - offset;
  return range > 0.0F ? FloatToF16RoundUp(range / static_cast<float>((1U << bits) - 1)) : 0;
}

VARVE_HD inline uint32_t IntCode(size_t bits, float x, float scale, float offset) {
  if (scale == 0.0F) {
    return 0;
  }
  const float largest = static_cast<float>((1U << bits) - 1);
  const float code = rintf((F16Sanitize(x) - offset) / scale);
  return static_cast<uint32_t>(code < 0.0F ? 0.0F : (code > largest ? largest : code));
}

VARVE_HD inline float IntDecode(uint32_t code, float scale, float offset) {
  return static_cast<float>(code) * scale + offset;
}

}  // namespace varve
