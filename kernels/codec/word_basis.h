// Keys that are coefficients of a basis, as words (word_decoder.h), by a product of 16-bit
// integers:
//   key = mean + factor of the token * sum over d of coefficient[d] * row d of the basis
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/word_decoder.h"

namespace varve {

// Of a coefficient, by magnitude. Rows are rounded so that sums of products with it fit 32 bits.
inline constexpr int kMaxCoefficient = 4095;

struct WordBasis {
  size_t num_dims;  // coefficients of a key, even
  float
      norm_limit;  // of factor * |coefficients|: keys up to there are in steps, others in multiples
  float factors[kMaxWordChannels];  // steps that one of a channel's sums is worth
  float means[kMaxWordChannels];    // in steps
  int32_t* panels;  // WordBasisPanelBytes: pairs of rows, in the panels of the target
};

constexpr size_t WordBasisPanelBytes(size_t head_dim) {
  return head_dim * head_dim * sizeof(int16_t);
}

// Fills `basis`, whose panels have room, and key_steps [head_dim]. rows: num_dims rows of
// [head_dim]; norm: the usual length of a key's coefficients, factor included.
// REQUIRES: num_dims is even, head_dim a multiple of 64.
void PackWordBasis(const float* const* rows,
                   size_t num_dims,
                   size_t head_dim,
                   const float* mean,
                   float norm,
                   WordBasis* basis,
                   float* key_steps);

// coefficients: [num_tokens, stride], at most kMaxCoefficient each; factors: [num_tokens]; words:
// [num_tokens, head_dim] and scales: [num_tokens], out.
void MultiplyWordBasis(const WordBasis& basis,
                       size_t head_dim,
                       const int16_t* coefficients,
                       size_t stride,
                       const float* factors,
                       size_t num_tokens,
                       int16_t* words,
                       float* scales);

}  // namespace varve
