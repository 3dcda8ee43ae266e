// Rows of rvq8 and rvq4 (rvq_block.h) as words (word_decoder.h): sums of codewords that were made
// words before. The codebooks of rvq8-2k are too large to be made words for each block of
// attention.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/rvq_block.h"
#include "kernels/codec/word_decoder.h"

namespace varve {

// REQUIRES, everywhere: indices of 8 bits, head_dim is a multiple of 64. codebooks: the tables of a
// layer.
void LoadRvqWords(const RvqFormat& format,
                  const float* codebooks,
                  size_t head_dim,
                  WordTables* out);

// codes: [num_tokens, RvqRowBytes]; words: [num_tokens, head_dim], out.
void DecodeRvqKeyWords(const RvqFormat& format,
                       const WordTables& tables,
                       const std::byte* codes,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* words);
void DecodeRvqValueWords(const RvqFormat& format,
                         const WordTables& tables,
                         const std::byte* codes,
                         size_t num_tokens,
                         size_t head_dim,
                         int16_t* words);

}  // namespace varve
