// Codec `f32`: the values as they are. What everything else is compared with.
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/exact_block.h"
#include "proto/base/check.h"

namespace varve {
namespace {

class F32 final : public Codec {
 public:
  CodecId id() const override { return CodecId::kF32; }
  uint16_t version() const override { return 1; }
  std::string_view name() const override { return "f32"; }
  bool appendable() const override { return true; }

  size_t EncodedBytes(const RunShape& shape, const CodecTables* /*tables*/) const override {
    return ExactKeyOffset(shape.num_kv_heads, shape.token_capacity, shape.head_dim) * sizeof(float);
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
    const size_t head_dim = shape.head_dim;
    const size_t row_bytes = head_dim * sizeof(float);
    for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
      const size_t k_begin = ExactKeyOffset(head, shape.token_capacity, head_dim);
      const size_t v_begin = ExactValueOffset(head, shape.token_capacity, head_dim);
      for (size_t token = 0; token < static_cast<size_t>(num_tokens); ++token) {
        const size_t source = token * token_stride + head * head_dim;
        const size_t row = (first_token + token) * head_dim;
        std::memcpy(out.data() + (k_begin + row) * sizeof(float), k + source, row_bytes);
        std::memcpy(out.data() + (v_begin + row) * sizeof(float), v + source, row_bytes);
      }
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
    const size_t head_dim = shape.head_dim;
    const size_t row_bytes = head_dim * sizeof(float);
    const size_t token_values = shape.num_kv_heads * head_dim;
    for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
      const size_t k_begin = ExactKeyOffset(head, shape.token_capacity, head_dim);
      const size_t v_begin = ExactValueOffset(head, shape.token_capacity, head_dim);
      for (size_t token = 0; token < static_cast<size_t>(num_tokens); ++token) {
        const size_t target = token * token_values + head * head_dim;
        const size_t row = (first_token + token) * head_dim;
        std::memcpy(k + target, encoded.data() + (k_begin + row) * sizeof(float), row_bytes);
        std::memcpy(v + target, encoded.data() + (v_begin + row) * sizeof(float), row_bytes);
      }
    }
  }
};

}  // namespace

const Codec* F32Codec() {
  static const F32 kCodec;
  return &kCodec;
}

}  // namespace varve
