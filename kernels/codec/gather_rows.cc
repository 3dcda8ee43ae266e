#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/gather_rows.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include "kernels/codec/f16_block.h"
#include "kernels/codec/gather_rows.h"
#include "kernels/cpu/sanitize-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// May be in place.
void SanitizeRow(const float* x, size_t count, float* out) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::StoreU(LoadSanitized(d, x + i, kF16Largest), d, out + i);
  }
  for (; i < count; ++i) {
    out[i] = F16Sanitize(x[i]);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(SanitizeRow);

void GatherRows(const float* x,
                size_t num_tokens,
                size_t token_stride,
                size_t head_dim,
                float* rows) {
  for (size_t t = 0; t < num_tokens; ++t) {
    HWY_DYNAMIC_DISPATCH(SanitizeRow)(x + t * token_stride, head_dim, rows + t * head_dim);
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
  HWY_DYNAMIC_DISPATCH(SanitizeRow)(rows, num_tokens * head_dim, rows);
}

}  // namespace varve
#endif  // HWY_ONCE
