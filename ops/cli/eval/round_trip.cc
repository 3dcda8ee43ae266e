#include "ops/cli/eval/round_trip.h"

namespace varve::cli {

void RoundTrip(const Codec& codec,
               const RunShape& shape,
               const float* k,
               const float* v,
               const RunContext& context,
               std::vector<std::byte>* scratch,
               float* k_out,
               float* v_out) {
  scratch->resize(codec.EncodedBytes(shape, context.tables));
  const size_t token_stride =
      static_cast<size_t>(shape.num_kv_heads) * static_cast<size_t>(shape.head_dim);
  codec.Encode(shape, 0, shape.token_capacity, k, v, token_stride, context, *scratch);
  codec.Decode(shape, 0, shape.token_capacity, *scratch, context, k_out, v_out);
}

}  // namespace varve::cli
