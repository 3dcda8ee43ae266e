// Codec `int8`: 8 bits per value and one scale per token, head and side. Bytes and meaning:
// int8_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/int8_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/int8_block.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> LoadSanitized(D d, const float* x) {
  const auto value = hn::LoadU(d, x);
  const auto number = hn::IfThenElseZero(hn::Eq(value, value), value);
  return hn::Min(hn::Max(number, hn::Set(d, -kInt8Largest)), hn::Set(d, kInt8Largest));
}

// One head of one token: codes to `codes`, returns the scale.
uint16_t Int8EncodeRow(const float* x, size_t head_dim, std::byte* codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  auto largest_lanes = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    largest_lanes = hn::Max(largest_lanes, hn::Abs(LoadSanitized(d, x + i)));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes));
  for (; i < head_dim; ++i) {
    largest = std::max(largest, std::fabs(Int8Sanitize(x[i])));
  }
  const uint16_t scale = Int8Scale(largest);
  if (scale == 0) {
    std::memset(codes, 0, head_dim);
    return scale;
  }
  const auto step = hn::Set(d, Bf16ToFloat(scale));
  for (i = 0; i + lanes <= head_dim; i += lanes) {
    const auto code = hn::NearestInt(hn::Div(LoadSanitized(d, x + i), step));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(d32, code)), d8, reinterpret_cast<int8_t*>(codes + i));
  }
  for (; i < head_dim; ++i) {
    codes[i] = static_cast<std::byte>(Int8Code(x[i], scale));
  }
  return scale;
}

void Int8DecodeRow(const std::byte* codes, uint16_t scale, size_t head_dim, float* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  const auto step = hn::Set(d, Bf16ToFloat(scale));
  size_t i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    const auto code = hn::LoadU(d8, reinterpret_cast<const int8_t*>(codes + i));
    hn::StoreU(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, code)), step), d, out + i);
  }
  for (; i < head_dim; ++i) {
    out[i] = Int8Decode(static_cast<int8_t>(codes[i]), scale);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(Int8EncodeRow);
HWY_EXPORT(Int8DecodeRow);

class Int8 final : public Codec {
 public:
  CodecId id() const override { return CodecId::kInt8; }
  uint16_t version() const override { return 1; }
  std::string_view name() const override { return "int8"; }
  bool appendable() const override { return false; }

  size_t EncodedBytes(const RunShape& shape) const override {
    return shape.num_kv_heads * Int8HeadBytes(shape.token_capacity, shape.head_dim);
  }

  // Tokens that the run has room for but does not hold are zero, so that equal tokens give equal
  // bytes.
  void Encode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              const float* k,
              const float* v,
              size_t token_stride,
              const CodecTables* /*tables*/,
              std::span<std::byte> out) const override {
    VARVE_CHECK(out.size() == EncodedBytes(shape));
    VARVE_CHECK(first_token == 0 && num_tokens >= 0 && num_tokens <= shape.token_capacity);
    const size_t head_dim = shape.head_dim;
    if (num_tokens < shape.token_capacity) {
      std::memset(out.data(), 0, out.size());
    }
    const auto encode_row = &HWY_DYNAMIC_DISPATCH(Int8EncodeRow);
    for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
      const Int8HeadLayout at = Int8LayoutOfHead(head, shape.token_capacity, head_dim);
      for (size_t token = 0; token < static_cast<size_t>(num_tokens); ++token) {
        const size_t source = token * token_stride + head * head_dim;
        const size_t row = token * head_dim;
        const uint16_t k_scale = encode_row(k + source, head_dim, out.data() + at.k_codes + row);
        const uint16_t v_scale = encode_row(v + source, head_dim, out.data() + at.v_codes + row);
        std::memcpy(out.data() + at.k_scales + token * sizeof(k_scale), &k_scale, sizeof(k_scale));
        std::memcpy(out.data() + at.v_scales + token * sizeof(v_scale), &v_scale, sizeof(v_scale));
      }
    }
  }

  void Decode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              std::span<const std::byte> encoded,
              const CodecTables* /*tables*/,
              float* k,
              float* v) const override {
    VARVE_CHECK(encoded.size() == EncodedBytes(shape));
    VARVE_CHECK(first_token >= 0 && num_tokens >= 0);
    VARVE_CHECK(first_token + num_tokens <= shape.token_capacity);
    const size_t head_dim = shape.head_dim;
    const size_t token_values = shape.num_kv_heads * head_dim;
    const auto decode_row = &HWY_DYNAMIC_DISPATCH(Int8DecodeRow);
    for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
      const Int8HeadLayout at = Int8LayoutOfHead(head, shape.token_capacity, head_dim);
      for (size_t index = 0; index < static_cast<size_t>(num_tokens); ++index) {
        const size_t token = first_token + index;
        uint16_t k_scale;
        uint16_t v_scale;
        std::memcpy(&k_scale, encoded.data() + at.k_scales + token * 2, sizeof(k_scale));
        std::memcpy(&v_scale, encoded.data() + at.v_scales + token * 2, sizeof(v_scale));
        const size_t target = index * token_values + head * head_dim;
        const size_t row = token * head_dim;
        decode_row(encoded.data() + at.k_codes + row, k_scale, head_dim, k + target);
        decode_row(encoded.data() + at.v_codes + row, v_scale, head_dim, v + target);
      }
    }
  }
};

}  // namespace

const Codec* Int8Codec() {
  static const Int8 kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
