// The ways to multiply by weights, each over one block of rows (output features): what MatMul
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

// Weights in int8 and quantised tokens.
struct Int8MatMulParams {
  const int16_t* codes = nullptr;  // [tokens, num_groups, kWeightGroupCols]
  const float* scales = nullptr;   // [tokens, num_groups]
  size_t num_groups = 0;           // that the columns of w touch
  size_t tokens = 0;
  size_t token_block = 0;  // tokens that go through a block of panels together
  WeightView w;
  float* y = nullptr;  // [tokens, w.rows]
  size_t y_stride = 0;
};

// The rows of w in panels [panel_begin, panel_end) of the whole matrix.
void MatMulInt8(const Int8MatMulParams& params, size_t panel_begin, size_t panel_end);

// Quantises one token for the columns [first_col, first_col + cols) of a matrix: whole groups, with
// zeros where x has no value. codes: [groups, kWeightGroupCols], scales: [groups].
void QuantiseToken(const float* x, size_t cols, size_t first_col, int16_t* codes, float* scales);

}  // namespace varve
