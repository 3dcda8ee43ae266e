// Decodes rows of pca and pca10 (pca_block.h).
#pragma once

#include <cstddef>

#include "kernels/codec/pca_block.h"

namespace varve {

// One side of one kv head. rows: of the first token; x: [num_tokens, head_dim], out. Takes any
// bytes. REQUIRES: head_dim <= kMaxHeadDim.
void PcaDecode(const PcaSide& side,
               const PcaPlace& at,
               size_t kv_head,
               const std::byte* rows,
               size_t num_tokens,
               float* x);

}  // namespace varve
