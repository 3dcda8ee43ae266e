// MatMul: deals blocks of rows out to the team and adds the bias. The loops are in matmul_few.cc,
// matmul_many.cc and matmul_int8.cc.
#include <algorithm>
#include <cstring>
#include <vector>

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
// Quantised tokens that stay in the L2 cache beside the panels that they meet; a multiple of every
// target's tile.
constexpr size_t kTokenBlockBytes = 128 * 1024;
constexpr size_t kTokenStep = 12;

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
  if (bias == nullptr) {
    return;
  }
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

// Quantised tokens of a call, kept between calls.
struct QuantisedTokens {
  std::vector<int16_t> codes;
  std::vector<float> scales;
};

void QuantiseTokens(const MatMulParams& params,
                    size_t num_groups,
                    QuantisedTokens& tokens,
                    ThreadTeam& team) {
  const size_t token_codes = num_groups * kWeightGroupCols;
  if (tokens.codes.size() < params.tokens * token_codes) {
    tokens.codes.resize(params.tokens * token_codes);
    tokens.scales.resize(params.tokens * num_groups);
  }
  const auto quantise = [&](size_t token) {
    QuantiseToken(params.x + token * params.x_stride,
                  params.w.cols,
                  params.w.first_col,
                  tokens.codes.data() + token * token_codes,
                  tokens.scales.data() + token * num_groups);
  };
  if (params.tokens < kManyTokens) {
    for (size_t token = 0; token < params.tokens; ++token) {
      quantise(token);
    }
    return;
  }
  constexpr size_t kTokens = 8;  // of one turn
  team.ParallelFor((params.tokens + kTokens - 1) / kTokens, [&](size_t turn, int /*thread*/) {
    for (size_t i = turn * kTokens; i < std::min((turn + 1) * kTokens, params.tokens); ++i) {
      quantise(i);
    }
  });
}

void MatMulInInt8(const MatMulParams& params,
                  const void* bias,
                  DType bias_dtype,
                  ThreadTeam& team) {
  const WeightView& w = params.w;
  const size_t num_groups = WeightGroups(w.first_col % kWeightGroupCols + w.cols);
  // Per operating-system thread, because teams of different workers multiply at the same time.
  thread_local QuantisedTokens tokens;
  QuantiseTokens(params, num_groups, tokens, team);
  const size_t token_bytes = num_groups * kWeightGroupCols * sizeof(int16_t);
  const size_t token_block =
      std::max(kTokenBlockBytes / token_bytes / kTokenStep, size_t{1}) * kTokenStep;
  const Int8MatMulParams int8{.codes = tokens.codes.data(),
                              .scales = tokens.scales.data(),
                              .num_groups = num_groups,
                              .tokens = params.tokens,
                              .token_block = token_block,
                              .w = w,
                              .y = params.y,
                              .y_stride = params.y_stride};
  const size_t first_panel = w.first_row / kWeightPanelRows;
  const size_t end_panel = WeightPanels(w.first_row + w.rows);
  const size_t panel_bytes = num_groups * sizeof(WeightBlock);
  const size_t share =
      (end_panel - first_panel) * panel_bytes / (4 * static_cast<size_t>(team.num_threads()));
  const size_t block =
      std::max<size_t>(std::clamp(share, kMinFewBlockBytes, kMaxFewBlockBytes) / panel_bytes, 1);
  team.ParallelFor((end_panel - first_panel + block - 1) / block, [&](size_t index, int) {
    const size_t begin = first_panel + index * block;
    const size_t end = std::min(begin + block, end_panel);
    MatMulInt8(int8, begin, end);
    const size_t row_begin = std::max(begin * kWeightPanelRows, w.first_row) - w.first_row;
    const size_t row_end = std::min(end * kWeightPanelRows - w.first_row, w.rows);
    AddBias(params, bias, bias_dtype, row_begin, row_end);
  });
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
  VARVE_CHECK(x_stride >= w.cols && y_stride >= w.rows);
  VARVE_CHECK(w.blocks != nullptr || w.row_stride >= w.cols);
  const MatMulParams params{x, x_stride, tokens, w, y, y_stride};
  if (w.blocks != nullptr && w.cols > 0) {
    MatMulInInt8(params, bias, bias_dtype, team);
    return;
  }
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
    AddBias(params, bias, bias_dtype, begin, end);
  });
}

}  // namespace varve
