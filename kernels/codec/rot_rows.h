// Rows of rot4, rot3 and rot2 (rot_block.h), for the codecs that code some of their rows so.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve {

// bits: 2 to 4. x: [head_dim], sanitized within. packed: PackedBytes(bits, head_dim) bytes, zero
// before.
void EncodeRotRow(size_t bits, const float* x, size_t head_dim, std::byte* packed, uint16_t* scale);
// Rows in rotated coordinates. packed: [num_rows, PackedBytes(bits, head_dim)], scales: halves,
// [num_rows], out: [num_rows, head_dim].
void DecodeRotRows(size_t bits,
                   const std::byte* packed,
                   const std::byte* scales,
                   size_t num_rows,
                   size_t head_dim,
                   float* out);
// From rotated coordinates to those of the model. x: [num_rows, head_dim].
void UnrotateRows(size_t num_rows, size_t head_dim, float* x);

}  // namespace varve
