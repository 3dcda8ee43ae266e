#include "kernels/ref/reference_int8_matmul.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/codec/bf16_block.h"
#include "kernels/weight_block.h"

namespace varve {
namespace {

struct StoredWeight {
  int8_t code;
  float scale;
};

StoredWeight At(const WeightView& w, size_t view_row, size_t view_col) {
  const size_t row = w.first_row + view_row;
  const size_t col = w.first_col + view_col;
  const size_t group = col / kWeightGroupCols;
  const WeightBlock& block = w.blocks[row / kWeightPanelRows * w.row_groups + group];
  const size_t place = col % kWeightGroupCols;
  const size_t lane = row % kWeightPanelRows;
  return {block.codes[place / 2][lane][place % 2], Bf16ToFloat(block.scales[lane])};
}

float Largest(const float* x, size_t count) {
  float largest = 0.0F;
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) {
      return std::numeric_limits<float>::quiet_NaN();
    }
    largest = std::max(largest, std::fabs(x[i]));
  }
  return largest;
}

}  // namespace

float ReferenceInt8Weight(const WeightView& w, size_t row, size_t col) {
  const StoredWeight weight = At(w, row, col);
  return static_cast<float>(weight.code) * weight.scale;
}

std::vector<double> ReferenceInt8MatMul(const float* x,
                                        size_t x_stride,
                                        size_t tokens,
                                        const WeightView& w) {
  std::vector<double> y(tokens * w.rows, 0.0);
  for (size_t token = 0; token < tokens; ++token) {
    size_t col = 0;
    while (col < w.cols) {
      // Groups are those of the whole matrix; a view may begin and end inside one.
      const size_t place = (w.first_col + col) % kWeightGroupCols;
      const size_t count = std::min(kWeightGroupCols - place, w.cols - col);
      const float* values = x + token * x_stride + col;
      const float largest = Largest(values, count);
      for (size_t row = 0; row < w.rows; ++row) {
        int32_t sum = 0;
        for (size_t i = 0; i < count && !std::isnan(largest); ++i) {
          sum += At(w, row, col + i).code * ActivationCode(values[i], largest);
        }
        const double scale = static_cast<double>(ActivationScale(largest)) * At(w, row, col).scale;
        y[token * w.rows + row] += scale * sum;
      }
      col += count;
    }
  }
  return y;
}

}  // namespace varve
