// Rows of packed codes (row_block.h) of 2, 3 or 4 bits as words (word_decoder.h), where each code
// stands for a level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/word_decoder.h"

namespace varve {

// codes: [num_tokens, PackedBytes(bits, head_dim)]; out: [num_tokens, head_dim].
// REQUIRES: head_dim is a multiple of 64.
//
// Keys: level of the code * scale of the channel + offset of the channel.
void KeyLevelWords(size_t bits,
                   const std::byte* codes,
                   const WordTables& tables,
                   size_t num_tokens,
                   size_t head_dim,
                   int16_t* out);
// Values: level of the code.
void ValueLevelWords(size_t bits,
                     const std::byte* codes,
                     const WordTables& tables,
                     size_t num_tokens,
                     size_t head_dim,
                     int16_t* out);

// Codes of 4 bits in equal steps (int_block.h), as levels of half a step about their middle: value
// = level * scale + offset.
void LoadStepLevels(WordTables* tables);  // value_levels
// As the rows have them, half, which need no alignment: [num_tokens]. level_scales, level_offsets:
// those of the levels, out.
void LoadStepParams(const std::byte* scales,
                    const std::byte* offsets,
                    size_t num_tokens,
                    float* level_scales,
                    float* level_offsets);

}  // namespace varve
