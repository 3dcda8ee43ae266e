// Encodes rows of the nuq codecs (nuq_block.h): the same bytes on every instruction set.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/codec/nuq_block.h"

namespace varve {

// A row of values as it is coded: which are outliers, and the range of the others.
struct NuqRow {
  std::vector<size_t> outliers;  // dims, ascending
  float scale = 0.0F;            // 0: all others are equal
  float offset = 0.0F;
};

// v: [head_dim]. Scale and offset are not yet rounded to halves.
NuqRow SplitNuqRow(std::span<const float> v, size_t num_outliers);

// One block. x: [num_tokens, head_dim]; out: zero before.
void EncodeNuqKeys(size_t bits,
                   const NuqLayout& at,
                   const NuqTables& tables,
                   size_t num_tokens,
                   size_t head_dim,
                   const float* x,
                   std::byte* out);
void EncodeNuqValues(size_t bits,
                     const NuqLayout& at,
                     const NuqTables& tables,
                     size_t num_tokens,
                     size_t head_dim,
                     const float* x,
                     std::byte* out);

}  // namespace varve
