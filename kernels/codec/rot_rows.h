// The rotation of rot_block.h, for codecs that code rotated rows in their own way.
#pragma once

#include <cstddef>

namespace varve {

// In place. x: [num_rows, head_dim].
void RotateRows(size_t num_rows, size_t head_dim, float* x);

}  // namespace varve
