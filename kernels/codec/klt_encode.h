// Encodes rows of the klt codecs (klt_block.h): the same bytes on every instruction set.
#pragma once

#include <cstddef>

#include "kernels/codec/klt_block.h"

namespace varve {

// y of keys and of values. Dimensions of keys behind the last group that has bits stay as they are.
// x: [num_tokens, head_dim]; y: [num_tokens, KltDims(head_dim)], out.
void TransformKltKeys(const KltTables<const float>& tables,
                      size_t num_tokens,
                      size_t head_dim,
                      const float* x,
                      float* y);
void TransformKltValues(const KltTables<const float>& tables,
                        size_t num_tokens,
                        size_t head_dim,
                        const float* x,
                        float* y);

// Root mean square of the dimensions that have bits, of each row. y: [num_tokens, dims]; norms:
// [num_tokens], out.
void KltNorms(const KltSide<const float>& side,
              size_t num_tokens,
              size_t dims,
              const float* y,
              float* norms);

// codes: [num_tokens, row_bytes], zero before; scales: KltScaleCode, [num_tokens], out.
void EncodeKltRows(const KltSide<const float>& side,
                   size_t num_tokens,
                   size_t dims,
                   const float* y,
                   size_t row_bytes,
                   std::byte* codes,
                   std::byte* scales);

}  // namespace varve
