// The loops of attention of few rows over keys and values that are 16-bit words (word_decoder.h):
// scores of queries with keys that are turned on the way, and weighted sums of values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve {

// Of a query for ScoreKeyWords: eight products of it and a turned key fit 32-bit sums.
inline constexpr float kMaxQueryWord = 8191.0F;

struct WordScores {
  size_t num_rows;
  size_t head_dim;  // a multiple of 64
  size_t num_tokens;
  const int16_t* keys;   // [num_tokens, head_dim], before RoPE
  const int16_t* turns;  // Rope::TurnWords of each token
  size_t turn_stride;    // from one token to the next
  const int16_t* q;      // [num_rows, head_dim]
  float* scores;         // [num_rows, kTileTokens], out: sums of products of words
};

void ScoreKeyWords(const WordScores& by);

struct WordSums {
  size_t num_rows;
  size_t head_dim;  // a multiple of 64
  size_t num_tokens;
  const int16_t* values;   // [num_tokens, head_dim]
  const int16_t* weights;  // [num_rows, kWeightStride]; if the number of tokens is odd, zero behind
                           // the last one
  const float* factors;    // [num_rows], of the sums
  const float* corrections;  // [num_rows], of o before
  float* o;                  // [num_rows, o_stride], in and out
  size_t o_stride;
};

// o = o * correction + factor * sum of weight * value.
void AddValueWords(const WordSums& by);

}  // namespace varve
