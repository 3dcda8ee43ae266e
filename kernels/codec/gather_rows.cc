#include "kernels/codec/gather_rows.h"

#include <algorithm>

#include "kernels/codec/f16_block.h"

namespace varve {

void GatherRows(const float* x,
                size_t num_tokens,
                size_t token_stride,
                size_t head_dim,
                float* rows) {
  for (size_t t = 0; t < num_tokens; ++t) {
    const float* row = x + t * token_stride;
    std::transform(row, row + head_dim, rows + t * head_dim, F16Sanitize);
  }
}

void UndoRope(const RunContext& context,
              size_t kv_head,
              size_t num_tokens,
              size_t head_dim,
              float* rows) {
  if (context.rope == nullptr) {
    return;
  }
  TurnRowsBack(*context.rope, context.PositionsOf(kv_head, 0), num_tokens, rows);
  // A turn can stretch a value.
  std::transform(rows, rows + num_tokens * head_dim, rows, F16Sanitize);
}

}  // namespace varve
