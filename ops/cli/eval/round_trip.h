// The one place where the lab encodes and decodes by itself, beside the workers: for keys and
// values that no model is there to compute with.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/codec/codec.h"

namespace varve::cli {

// What `codec` makes of a whole run: k and v, dense [shape.token_capacity, num_kv_heads, head_dim],
// become k_out and v_out. `context` has tables if the codec needs some. `scratch` is reused from
// call to call.
void RoundTrip(const Codec& codec,
               const RunShape& shape,
               const float* k,
               const float* v,
               const RunContext& context,
               std::vector<std::byte>* scratch,
               float* k_out,
               float* v_out);

}  // namespace varve::cli
