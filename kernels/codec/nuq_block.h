// nuq4, nuq3, nuq2 and nuq4-1%, nuq3-1%, nuq2-1%: levels that are not evenly spaced, and the
// largest values apart (KVQuant, 2401.18079). Keys before RoPE per channel, with ranges known
// beforehand; values per token. The scalar meaning.
//
// Calibrated for each layer: 2^bits levels in [-1, 1] for the keys and as many for the values
// (k-means weighted with the sensitivity of the model; with 2 bits corrected so that mean and
// deviation of what is coded stay, the paper's Q-Norm), rounded to 127ths of the largest, so that
// integer arithmetic is exact on them; for each kv head and channel the scale and
// the offset of the keys, from their range or, in the forms with outliers, from the range that
// holds 99 % of them.
//
// Keys:   code = the level nearest to (k - offset) / scale of the channel
// Values: offset = (largest + smallest) / 2 and scale = (largest - smallest) / 2 of the row, as
//         halves; code = the level nearest to (v - offset) / scale
// Outliers (a fixed number of each row, so that rows stay in place): the values farthest from the
// offset of their channel, in scales (keys), or from the row's median (values, whose range is then
// taken without them). They are kept as halves. The paper marks 1 % of all values wherever they
// are; here it is one in 64.
//
// Block of keys: codes [tokens, PackedBytes(bits)], dims [tokens, outliers] bytes,
// outliers [tokens, outliers] half. Block of values: the same, then scales [tokens] half and
// offsets [tokens] half.
// Bits per value of head_dim 64: bits + 16 / head_dim; with outliers 24 / 64 more.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/row_block.h"

namespace varve {

// Outliers of a row: one in a hundred, rounded up.
VARVE_HD constexpr size_t NuqOutliers(bool sparse, size_t head_dim) {
  return sparse ? (head_dim + 99) / 100 : 0;
}

// Byte offsets from the start of a block; scales and offsets are of values only.
struct NuqLayout {
  size_t row_bytes;
  size_t num_outliers;
  size_t dims;
  size_t outliers;
  size_t scales;
  size_t offsets;
  size_t key_bytes;    // of a block of keys
  size_t value_bytes;  // of a block of values
};

VARVE_HD constexpr NuqLayout NuqLayoutOf(size_t bits,
                                         bool sparse,
                                         size_t head_dim,
                                         size_t token_capacity) {
  NuqLayout at{};
  at.row_bytes = PackedBytes(bits, head_dim);
  at.num_outliers = NuqOutliers(sparse, head_dim);
  at.dims = token_capacity * at.row_bytes;
  at.outliers = at.dims + token_capacity * at.num_outliers;
  at.scales = at.outliers + token_capacity * at.num_outliers * sizeof(uint16_t);
  at.offsets = at.scales + token_capacity * sizeof(uint16_t);
  at.key_bytes = at.scales;
  at.value_bytes = at.offsets + token_capacity * sizeof(uint16_t);
  return at;
}

// The tables of a layer, as floats: levels of the keys [2^bits], levels of the values [2^bits],
// both ascending, then for each kv head scales [head_dim] and offsets [head_dim].
struct NuqTables {
  const float* key_levels;
  const float* value_levels;
  const float* scales;
  const float* offsets;
};

VARVE_HD constexpr size_t NuqTableFloats(size_t bits, size_t num_kv_heads, size_t head_dim) {
  return (size_t{2} << bits) + 2 * num_kv_heads * head_dim;
}

VARVE_HD inline NuqTables NuqTablesOf(const float* tables,
                                      size_t bits,
                                      size_t kv_head,
                                      size_t head_dim) {
  const size_t levels = size_t{1} << bits;
  const float* head = tables + 2 * levels + 2 * kv_head * head_dim;
  return {tables, tables + levels, head, head + head_dim};
}

// Levels as integers, of which the largest is kNuqSteps; returns what one of them is worth.
inline constexpr float kNuqSteps = 127.0F;
inline constexpr size_t kMaxNuqLevels = 16;

inline float NuqLevelSteps(const float* levels, size_t bits, int8_t* steps) {
  const size_t count = size_t{1} << bits;
  float largest = 0.0F;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::fabs(levels[i]));
  }
  const float step = std::max(largest, 1e-30F) / kNuqSteps;
  for (size_t i = 0; i < count; ++i) {
    steps[i] = static_cast<int8_t>(std::lrint(levels[i] / step));
  }
  return step;
}

}  // namespace varve
