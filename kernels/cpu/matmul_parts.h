// The two ways to multiply by weights, each over one block of rows (output features): what MatMul
// (matmul.cc) deals out to its threads.
#pragma once

#include <cstddef>

#include "kernels/dense.h"

namespace varve {

struct MatMulParams {
  const float* x = nullptr;  // [tokens, w.cols]
  size_t x_stride = 0;
  size_t tokens = 0;
  WeightView w;
  float* y = nullptr;  // [tokens, w.rows]
  size_t y_stride = 0;
};

// From this many tokens on the weights are packed: that costs about one cycle per weight once, dot
// products a quarter of one for every four tokens and the reductions.
inline constexpr size_t kManyTokens = 16;

// Rows of one call of MatMulMany at most: with kMaxDepth they are the packed panels that stay in
// the L2 cache.
inline constexpr size_t kMaxRowsMany = 96;

// y[:, row_begin, row_end) as dot products: streams each row once for all tokens. For few tokens.
void MatMulFew(const MatMulParams& params, size_t row_begin, size_t row_end);

// The same by packed panels. For many tokens. REQUIRES: row_end - row_begin <= kMaxRowsMany. Keeps
// scratch memory per thread, allocated on the thread's first call.
void MatMulMany(const MatMulParams& params, size_t row_begin, size_t row_end);

}  // namespace varve
