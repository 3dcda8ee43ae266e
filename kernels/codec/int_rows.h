// Rows of int4, int3 and int2 (int_block.h), for the codecs that code some of their rows so. Here
// they may have 8 bits, too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve {

// bits: 2, 3, 4 or 8. x: [count], sanitized within. packed: PackedBytes(bits, count) bytes, zero
// before. params: scale and offset (kIntScale, kIntOffset).
void EncodeIntRow(size_t bits, const float* x, size_t count, std::byte* packed, uint16_t* params);

// Rows that lie one behind the other, as int_block.h means them. codes: [num_rows,
// PackedBytes(bits, count)]; scales, offsets: [num_rows] half, which need no alignment.
// out: [num_rows, stride], of which the first `count` of each row are written.
void DecodeIntRows(size_t bits,
                   const std::byte* codes,
                   const std::byte* scales,
                   const std::byte* offsets,
                   size_t num_rows,
                   size_t count,
                   size_t stride,
                   float* out);

}  // namespace varve
