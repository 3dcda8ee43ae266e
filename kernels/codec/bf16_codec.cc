// Codec `bf16`: each value rounded to bfloat16. The exact codec of sinks and of the recent window.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/bf16_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include "kernels/codec/codecs.h"
#include "kernels/codec/exact_block.h"
#include "kernels/cpu/bf16-inl.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {

// `values` heads of head_dim values each; one head of the run is `head_bytes` from the next.
void Bf16EncodeToken(const float* source,
                     size_t heads,
                     size_t head_dim,
                     std::byte* out,
                     size_t head_bytes) {
  for (size_t head = 0; head < heads; ++head) {
    NarrowToBf16(source + head * head_dim, head_dim, out + head * head_bytes);
  }
}

void Bf16DecodeToken(const std::byte* source,
                     size_t head_bytes,
                     size_t heads,
                     size_t head_dim,
                     float* out) {
  for (size_t head = 0; head < heads; ++head) {
    WidenBf16(source + head * head_bytes, head_dim, out + head * head_dim);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(Bf16EncodeToken);
HWY_EXPORT(Bf16DecodeToken);

class Bf16 final : public Codec {
 public:
  CodecId id() const override { return CodecId::kBf16; }
  uint16_t version() const override { return 1; }
  std::string_view name() const override { return "bf16"; }
  bool appendable() const override { return true; }

  size_t EncodedBytes(const RunShape& shape, const CodecTables* /*tables*/) const override {
    return ExactKeyOffset(shape.num_kv_heads, shape.token_capacity, shape.head_dim) *
           sizeof(uint16_t);
  }

  void Encode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              const float* k,
              const float* v,
              size_t token_stride,
              const RunContext& /*context*/,
              std::span<std::byte> out) const override {
    VARVE_CHECK(out.size() == EncodedBytes(shape, nullptr));
    VARVE_CHECK(first_token >= 0 && num_tokens >= 0);
    VARVE_CHECK(first_token + num_tokens <= shape.token_capacity);
    const size_t heads = shape.num_kv_heads;
    const size_t head_dim = shape.head_dim;
    const size_t row_bytes = head_dim * sizeof(uint16_t);
    const size_t side_bytes = shape.token_capacity * row_bytes;
    for (size_t token = 0; token < static_cast<size_t>(num_tokens); ++token) {
      std::byte* row = out.data() + (first_token + token) * row_bytes;
      const size_t source = token * token_stride;
      HWY_DYNAMIC_DISPATCH(Bf16EncodeToken)(k + source, heads, head_dim, row, 2 * side_bytes);
      HWY_DYNAMIC_DISPATCH(Bf16EncodeToken)
      (v + source, heads, head_dim, row + side_bytes, 2 * side_bytes);
    }
  }

  void Decode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              std::span<const std::byte> encoded,
              const RunContext& /*context*/,
              float* k,
              float* v) const override {
    VARVE_CHECK(encoded.size() == EncodedBytes(shape, nullptr));
    VARVE_CHECK(first_token >= 0 && num_tokens >= 0);
    VARVE_CHECK(first_token + num_tokens <= shape.token_capacity);
    const size_t heads = shape.num_kv_heads;
    const size_t head_dim = shape.head_dim;
    const size_t row_bytes = head_dim * sizeof(uint16_t);
    const size_t side_bytes = shape.token_capacity * row_bytes;
    for (size_t token = 0; token < static_cast<size_t>(num_tokens); ++token) {
      const std::byte* row = encoded.data() + (first_token + token) * row_bytes;
      const size_t target = token * heads * head_dim;
      HWY_DYNAMIC_DISPATCH(Bf16DecodeToken)(row, 2 * side_bytes, heads, head_dim, k + target);
      HWY_DYNAMIC_DISPATCH(Bf16DecodeToken)
      (row + side_bytes, 2 * side_bytes, heads, head_dim, v + target);
    }
  }
};

}  // namespace

const Codec* Bf16Codec() {
  static const Bf16 kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
