// Rows of lorc (lorc_block.h) as words (word_decoder.h). Keys are a product of 16-bit integers with
// the basis; values stay coefficients, whose sums are multiplied by it once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/lorc_block.h"
#include "kernels/codec/word_decoder.h"

namespace varve {

// keys: of the kv head. REQUIRES: head_dim is a multiple of 64.
void LoadLorcWords(const LorcTables& keys, size_t head_dim, WordTables* out);

// encoded: the block of the keys, or of the values. words: [num_tokens, head_dim], out; steps:
// [num_tokens], out.
void DecodeLorcKeyWords(const WordTables& tables,
                        const LorcLayout& at,
                        size_t rank,
                        size_t head_dim,
                        const std::byte* encoded,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        float* steps);
// Levels (LoadStepLevels) of y, zero behind the rank.
void DecodeLorcValueWords(const WordTables& tables,
                          const LorcLayout& at,
                          size_t rank,
                          size_t head_dim,
                          const std::byte* encoded,
                          size_t first_token,
                          size_t num_tokens,
                          int16_t* words);

}  // namespace varve
