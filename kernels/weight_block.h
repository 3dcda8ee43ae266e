// Dense weights held in int8: bytes and scalar meaning. `varve --weights int8` converts a model to
// this when it is loaded (worker/int8_weights.h); nothing of it is ever stored.
//
// A matrix is cut into panels of 16 rows and groups of 64 columns; panel and group meet in a block.
// A row of a block is coded as the KV codec int8 codes a row (codec/int8_block.h): one bfloat16
// scale, so that a weight is off by at most max|group| / 127 * (1 + 1/128) / 2. 8.25 bits per
// weight.
//
// Activations are quantised when they are multiplied, to 16 bits, one scale per token and group:
//
//   largest = max |x| over the group;  code = round(x * (32767 / largest)), off by at most
//   largest / 65534, 1/258 of what 8 bits would cost
//
// 16 bits are no slower: the instruction that multiplies and adds pairs of 16-bit integers (AVX2
// madd, VNNI vpdpwssd) does as many products per cycle as the detour that makes 8 x 8 bits exact.
//
//   y[t, r] = sum over groups of (x_scale[t, g] * w_scale[r, g]) * (sum over the group of codes'
//   products)
//
// The inner sum is exact in int32: 64 * 127 * 32767 < 2^28. The outer one is fp32, in the order of
// the groups; a result depends neither on the number of tokens that are multiplied together nor on
// the number of threads.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace varve {

inline constexpr size_t kWeightPanelRows = 16;
inline constexpr size_t kWeightGroupCols = 64;

// Pairs of columns lie together, for all rows: what one multiply-and-add of pairs takes.
struct WeightBlock {
  int8_t codes[kWeightGroupCols / 2][kWeightPanelRows][2];
  uint16_t scales[kWeightPanelRows];  // bfloat16
};
static_assert(sizeof(WeightBlock) == 1056);

inline constexpr size_t WeightPanels(size_t rows) {
  return (rows + kWeightPanelRows - 1) / kWeightPanelRows;
}
inline constexpr size_t WeightGroups(size_t cols) {
  return (cols + kWeightGroupCols - 1) / kWeightGroupCols;
}
// Blocks of a matrix: [WeightPanels(rows), WeightGroups(cols)]. What is beyond its edges is zero.
inline constexpr size_t NumWeightBlocks(size_t rows, size_t cols) {
  return WeightPanels(rows) * WeightGroups(cols);
}

inline constexpr float kActivationMaxCode = 32767.0F;
// Groups below this count as zero: the reciprocal of their scale would overflow.
inline constexpr float kActivationSmallest = 1e-30F;

// `largest` is max |x| of the group; NaN if the group holds NaN or infinity, which makes all of the
// token's results NaN.
inline float ActivationScale(float largest) {
  return largest < kActivationSmallest ? 0.0F : largest / kActivationMaxCode;
}
// REQUIRES: x is finite.
inline int16_t ActivationCode(float x, float largest) {
  return largest < kActivationSmallest
             ? int16_t{0}
             : static_cast<int16_t>(rintf(x * (kActivationMaxCode / largest)));
}

}  // namespace varve
