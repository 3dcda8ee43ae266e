// Decodes keys of klt4, klt3 and klt2 (klt_block.h), before RoPE. It is a product of head_dim *
// head_dim numbers for every key, 32 times what four queries cost that read it: these codecs save
// bytes, not time.
#pragma once

#include <cstddef>

#include "kernels/codec/klt_block.h"

namespace varve {

// codes: [num_tokens, row_bytes]; scales: halves, [num_tokens]; x: [num_tokens, head_dim], out.
void DecodeKltKeys(const KltTables& tables,
                   const std::byte* codes,
                   const std::byte* scales,
                   size_t row_bytes,
                   size_t num_tokens,
                   size_t head_dim,
                   float* x);

}  // namespace varve
