// The rows of one kv head as encoders want them: dense, sanitized (f16_block.h), keys before RoPE.
#pragma once

#include <cstddef>

#include "kernels/codec/codec.h"

namespace varve {

// x: the head's row of the first token, `token_stride` floats from one token to the next.
// rows: [num_tokens, head_dim], out.
void GatherRows(const float* x,
                size_t num_tokens,
                size_t token_stride,
                size_t head_dim,
                float* rows);

// Turns the keys of the run's first tokens back to before RoPE; without a rope they are that
// already. rows: [num_tokens, head_dim], sanitized before and after.
void UndoRope(const RunContext& context,
              size_t kv_head,
              size_t num_tokens,
              size_t head_dim,
              float* rows);

}  // namespace varve
