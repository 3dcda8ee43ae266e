// The two factors of deco4 (deco_block.h).
#pragma once

#include <cstddef>
#include <vector>

namespace varve {

struct DecoFactors {
  std::vector<float> small;  // A, [blocks, blocks]
  std::vector<float> large;  // L, [num_tokens, blocks, columns]
};

// x: [num_tokens, blocks * columns], without the means. The same on every machine.
// REQUIRES: blocks <= kDecoMaxBlocks.
DecoFactors FactorDeco(const float* x, size_t num_tokens, size_t blocks, size_t columns);

}  // namespace varve
