// The change of basis that klt and lorc begin with.
#pragma once

#include <cstddef>

namespace varve {

// y[t, c] = sum over i of (x[t, i] - mean[i]) * matrix[i, c], in double precision and in the order
// of i without fused steps: the same bits on every instruction set. x: [num_rows, depth]; matrix:
// [depth, columns] and y: [num_rows, columns], their rows `stride` floats apart.
// REQUIRES: depth <= kMaxHeadDim.
void ProjectRows(const float* x,
                 size_t num_rows,
                 size_t depth,
                 const float* mean,
                 const float* matrix,
                 size_t columns,
                 size_t stride,
                 float* y);

}  // namespace varve
