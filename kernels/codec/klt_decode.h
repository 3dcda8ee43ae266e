// Decodes rows of the klt codecs (klt_block.h). A key, before RoPE, is a product of head_dim *
// head_dim numbers, 32 times what four queries cost that read it: these codecs save bytes, not
// time. A value costs head_dim * log2(head_dim) additions.
#pragma once

#include <cstddef>

#include "kernels/codec/klt_block.h"

namespace varve {

// codes: [num_tokens, row_bytes]; scales: KltScaleCode, [num_tokens]; x: [num_tokens, head_dim],
// out.
void DecodeKltKeys(const KltTables<const float>& tables,
                   const std::byte* codes,
                   const std::byte* scales,
                   size_t row_bytes,
                   size_t num_tokens,
                   size_t head_dim,
                   float* x);
void DecodeKltValues(const KltTables<const float>& tables,
                     const std::byte* codes,
                     const std::byte* scales,
                     size_t row_bytes,
                     size_t num_tokens,
                     size_t head_dim,
                     float* x);

}  // namespace varve
