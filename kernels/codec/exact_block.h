// Where the values of an exact run (f32, bf16) lie: for each kv head K [token_capacity, head_dim],
// then V of that shape. A token can be written in place at any time, and one head's keys are one
// stream.
#pragma once

#include <cstddef>

#include "kernels/hd.h"

namespace varve {

// Index of value 0 of token 0 of the keys of `kv_head`, in values.
VARVE_HD constexpr size_t ExactKeyOffset(size_t kv_head, size_t token_capacity, size_t head_dim) {
  return kv_head * 2 * token_capacity * head_dim;
}
VARVE_HD constexpr size_t ExactValueOffset(size_t kv_head, size_t token_capacity, size_t head_dim) {
  return (kv_head * 2 + 1) * token_capacity * head_dim;
}

static_assert(ExactValueOffset(0, 128, 64) - ExactKeyOffset(0, 128, 64) == 128 * 64);
static_assert(ExactKeyOffset(1, 128, 64) - ExactValueOffset(0, 128, 64) == 128 * 64);

}  // namespace varve
