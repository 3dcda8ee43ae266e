// The loops of pca and pca10 (pca_block.h), by instruction set.
#pragma once

#include <cstddef>

#include "kernels/codec/pca_block.h"

namespace varve {

// c = a b, summed in the order of the depth with a rounding at each step: the same bits on every
// instruction set. a: [rows, depth], rows a multiple of kPcaGroup; b: [depth, columns]; c: [rows,
// columns].
void PcaMultiply(const float* a,
                 size_t rows,
                 size_t depth,
                 const float* b,
                 size_t columns,
                 float* c);

// One side of one kv head. rows: of the first token; x: [num_tokens, head_dim], out. Takes any
// bytes. REQUIRES: head_dim <= kMaxHeadDim.
void PcaDecode(const PcaSide& side,
               const PcaPlace& at,
               size_t kv_head,
               const std::byte* rows,
               size_t num_tokens,
               float* x);

}  // namespace varve
