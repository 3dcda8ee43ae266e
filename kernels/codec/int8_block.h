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
// For each kv head, token_capacity tokens: K codes [tokens, head_dim], V codes [tokens, head_dim],
// K scales [tokens], V scales [tokens]. Bits per value: 8 + 16 / head_dim.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/bf16_block.h"
#include "kernels/hd.h"

namespace varve {

inline constexpr float kInt8MaxCode = 127.0F;
inline constexpr float kInt8Largest = 3.0e38F;

struct Int8HeadLayout {
  size_t k_codes;  // byte offsets from the start of the run
  size_t v_codes;
  size_t k_scales;
  size_t v_scales;
};

VARVE_HD constexpr size_t Int8HeadBytes(size_t token_capacity, size_t head_dim) {
  return 2 * token_capacity * (head_dim + sizeof(uint16_t));
}

VARVE_HD constexpr Int8HeadLayout Int8LayoutOfHead(size_t kv_head,
                                                   size_t token_capacity,
                                                   size_t head_dim) {
  const size_t begin = kv_head * Int8HeadBytes(token_capacity, head_dim);
  const size_t side = token_capacity * head_dim;
  return {
      begin, begin + side, begin + 2 * side, begin + 2 * side + token_capacity * sizeof(uint16_t)};
}

static_assert(Int8HeadBytes(128, 64) * 8 == 2 * 128 * 64 * 8 + 2 * 128 * 16);
static_assert(Int8LayoutOfHead(1, 128, 64).k_codes ==
              Int8LayoutOfHead(0, 128, 64).v_scales + 128 * sizeof(uint16_t));

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
