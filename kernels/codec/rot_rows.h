// Rows of rot4, rot3 and rot2 (rot_block.h), for the codecs that code some of their rows so.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve {

// bits: 2 to 4. x: [head_dim], sanitized within. packed: PackedBytes(bits, head_dim) bytes, zero
// before.
void EncodeRotRow(size_t bits, const float* x, size_t head_dim, std::byte* packed, uint16_t* scale);
// out: [head_dim], in the coordinates of x.
void DecodeRotRow(size_t bits,
                  const std::byte* packed,
                  uint16_t scale,
                  size_t head_dim,
                  float* out);

}  // namespace varve
