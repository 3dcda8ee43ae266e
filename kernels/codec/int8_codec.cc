// Codec `int8`: 8 bits per value and one scale per token, head and side. Bytes and meaning:
// int8_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/int8_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include "kernels/codec/codecs.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/row_codec.h"
#include "kernels/cpu/int8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One head of one token: codes to `codes`, returns the scale.
uint16_t Int8Encode(const float* x, size_t head_dim, std::byte* codes) {
  return Int8EncodeRow(x, head_dim, codes);
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

HWY_EXPORT(Int8Encode);
HWY_EXPORT(Int8DecodeRow);

class Int8 final : public RowCodec {
 public:
  CodecId id() const override { return CodecId::kInt8; }
  std::string_view name() const override { return "int8"; }

 protected:
  RowFormat Format(size_t head_dim) const override { return Int8Format(head_dim); }
  void EncodeRow(const float* x,
                 size_t head_dim,
                 std::byte* codes,
                 uint16_t* params) const override {
    params[0] = HWY_DYNAMIC_DISPATCH(Int8Encode)(x, head_dim, codes);
  }
  void DecodeRow(const std::byte* codes,
                 const uint16_t* params,
                 size_t head_dim,
                 float* out) const override {
    HWY_DYNAMIC_DISPATCH(Int8DecodeRow)(codes, params[0], head_dim, out);
  }
};

}  // namespace

const Codec* Int8Codec() {
  static const Int8 kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
