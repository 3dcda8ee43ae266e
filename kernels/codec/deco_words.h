// Keys of deco4 (deco_block.h) as words (word_decoder.h): the product of the small factor and the
// levels of the large one in integers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/deco_block.h"

namespace varve {

// The large factor of some tokens: value = level * scale of the token + offset of the token.
struct DecoLevels {
  const int16_t* words;  // [num_tokens, head_dim], at most 15 each
  const float* scales;   // [num_tokens]
  const float* offsets;  // [num_tokens]
};

// encoded: the block of the keys; words: [num_tokens, head_dim] and steps: [num_tokens], out.
// REQUIRES: head_dim is a multiple of 64.
void MultiplyDecoWords(const DecoLayout& at,
                       size_t head_dim,
                       const std::byte* encoded,
                       const DecoLevels& large,
                       size_t num_tokens,
                       int16_t* words,
                       float* steps);

}  // namespace varve
