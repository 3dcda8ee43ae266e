// MatMul: deals blocks of rows out to the team and adds the bias. The loops are in matmul_few.cc
// and matmul_many.cc.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/matmul_parts.h"
#include "kernels/dense.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// A block of weights of a few tokens: long enough that the memory delivers it at full rate, short
// enough to balance.
constexpr size_t kMinFewBlockBytes = 32 * 1024;
constexpr size_t kMaxFewBlockBytes = 256 * 1024;
constexpr size_t kRowStep = 16;

size_t RoundUp(size_t value, size_t step) {
  return (value + step - 1) / step * step;
}

size_t BlockRows(const MatMulParams& params, size_t num_threads) {
  if (params.tokens < kManyTokens) {
    const size_t row_bytes = std::max<size_t>(params.w.cols * DTypeBytes(params.w.dtype), 1);
    const size_t share = params.w.rows * row_bytes / (4 * num_threads);
    const size_t block_bytes = std::clamp(share, kMinFewBlockBytes, kMaxFewBlockBytes);
    return RoundUp(std::max<size_t>(block_bytes / row_bytes, 1), kRowStep);
  }
  // Three blocks per thread, so that a late thread costs a third of its share.
  const size_t share = params.w.rows / (num_threads == 1 ? 1 : 3 * num_threads);
  return std::clamp(RoundUp(share, kRowStep), 2 * kRowStep, kMaxRowsMany);
}

void AddBias(const MatMulParams& params,
             const void* bias,
             DType dtype,
             size_t row_begin,
             size_t row_end) {
  constexpr size_t kChunk = 128;
  float wide[kChunk];
  for (size_t begin = row_begin; begin < row_end; begin += kChunk) {
    const size_t count = std::min(kChunk, row_end - begin);
    Widen(static_cast<const std::byte*>(bias) + begin * DTypeBytes(dtype), dtype, count, wide);
    for (size_t token = 0; token < params.tokens; ++token) {
      AddInPlace(params.y + token * params.y_stride + begin, wide, count);
    }
  }
}

}  // namespace

void MatMul(const float* x,
            size_t x_stride,
            size_t tokens,
            const WeightView& w,
            const void* bias,
            DType bias_dtype,
            float* y,
            size_t y_stride,
            ThreadTeam& team) {
  if (w.rows == 0 || tokens == 0) {
    return;
  }
  VARVE_CHECK(x_stride >= w.cols && y_stride >= w.rows && w.row_stride >= w.cols);
  const MatMulParams params{x, x_stride, tokens, w, y, y_stride};
  const size_t block_rows = BlockRows(params, static_cast<size_t>(team.num_threads()));
  const size_t num_blocks = (w.rows + block_rows - 1) / block_rows;
  team.ParallelFor(num_blocks, [&](size_t block, int /*thread*/) {
    const size_t begin = block * block_rows;
    const size_t end = std::min(begin + block_rows, w.rows);
    if (w.cols == 0) {
      for (size_t token = 0; token < tokens; ++token) {
        std::memset(y + token * y_stride + begin, 0, (end - begin) * sizeof(float));
      }
    } else if (tokens < kManyTokens) {
      MatMulFew(params, begin, end);
    } else {
      MatMulMany(params, begin, end);
    }
    if (bias != nullptr) {
      AddBias(params, bias, bias_dtype, begin, end);
    }
  });
}

}  // namespace varve
