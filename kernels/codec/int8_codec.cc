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
#include "kernels/codec/row_codec.h"
#include "kernels/cpu/sanitize-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One head of one token: codes to `codes`, returns the scale.
uint16_t Int8EncodeRow(const float* x, size_t head_dim, std::byte* codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  auto largest_lanes = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    largest_lanes = hn::Max(largest_lanes, hn::Abs(LoadSanitized(d, x + i, kInt8Largest)));
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
    const auto code = hn::NearestInt(hn::Div(LoadSanitized(d, x + i, kInt8Largest), step));
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
    params[0] = HWY_DYNAMIC_DISPATCH(Int8EncodeRow)(x, head_dim, codes);
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
