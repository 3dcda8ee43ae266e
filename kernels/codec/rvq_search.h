// The nearest codewords of a codebook of the rvq codecs (rvq_block.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/rvq_block.h"

namespace varve {

// nearest[i] = the number of the codeword nearest to vector i, as rvq_block.h says; the same on
// every instruction set. codebook: [num_entries, 32], num_entries a multiple of 32 and at most
// 65,536. vectors: [num_vectors, 32].
void FindNearestCodewords(const float* codebook,
                          size_t num_entries,
                          const float* vectors,
                          size_t num_vectors,
                          uint16_t* nearest);

// Takes from each vector its codeword: what the next stage codes.
inline void SubtractCodewords(const float* codebook,
                              const uint16_t* nearest,
                              size_t num_vectors,
                              float* vectors) {
  for (size_t v = 0; v < num_vectors; ++v) {
    const float* codeword = codebook + nearest[v] * kRvqGroup;
    for (size_t i = 0; i < kRvqGroup; ++i) {
      vectors[v * kRvqGroup + i] -= codeword[i];
    }
  }
}

}  // namespace varve
