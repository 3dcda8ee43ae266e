// Rows of skvq4 and skvq2 (skvq_block.h) as words (word_decoder.h). Each token has a step of its
// own, fit for what its groups and the channels' centres reach.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/skvq_block.h"
#include "kernels/codec/word_decoder.h"

namespace varve {

// Consecutive tokens of one side of a kv head.
struct SkvqRows {
  size_t bits;
  size_t head_dim;  // a multiple of 64
  bool is_key;
  SkvqLayout at;
  const std::byte* block;
  size_t first_token;
  size_t num_tokens;
};

void LoadSkvqWords(size_t bits,
                   const SkvqTables& keys,
                   const SkvqTables& values,
                   size_t head_dim,
                   WordTables* out);

// words: [num_tokens, head_dim], out. steps: [num_tokens], out: what a word is worth. REQUIRES:
// num_tokens
// <= kWordTokens.
void DecodeSkvqWords(const SkvqRows& rows, const WordTables& tables, int16_t* words, float* steps);
// The same steps, of any number of tokens.
void LoadSkvqSteps(const SkvqRows& rows, const WordTables& tables, float* steps);

}  // namespace varve
