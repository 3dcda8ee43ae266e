// What multiplying by weights in int8 means, step by step as kernels/weight_block.h says it. Slow;
// for tests.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/dense.h"

namespace varve {

// The value that a block of `w` holds for a row and a column of the view.
float ReferenceInt8Weight(const WeightView& w, size_t row, size_t col);

// y: [tokens, w.rows]; integers summed within groups, double across them. REQUIRES: w.blocks is not
// null.
std::vector<double> ReferenceInt8MatMul(const float* x,
                                        size_t x_stride,
                                        size_t tokens,
                                        const WeightView& w);

}  // namespace varve
