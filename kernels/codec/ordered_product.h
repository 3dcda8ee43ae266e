// Matrix products of encoders: every sum runs in the order of the depth and is rounded at each
// step, so that it has the same bits on every instruction set.
#pragma once

#include <cstddef>

namespace varve {

// Rows of `a` are read in groups of this many.
inline constexpr size_t kOrderedRows = 4;

// c = a b. a: [rows, depth], rows a multiple of kOrderedRows; b: [depth, columns]; c: [rows,
// columns].
void MultiplyInOrder(const float* a,
                     size_t rows,
                     size_t depth,
                     const float* b,
                     size_t columns,
                     float* c);

// y[t, c] = sum over i of (x[t, i] - mean[i]) * matrix[i, c], in double precision and rounded to
// fp32 at the end. x: [num_rows, depth]; matrix: [depth, columns] and y: [num_rows, columns], their
// rows `stride` floats apart.
void ProjectRows(const float* x,
                 size_t num_rows,
                 size_t depth,
                 const float* mean,
                 const float* matrix,
                 size_t columns,
                 size_t stride,
                 float* y);

}  // namespace varve
