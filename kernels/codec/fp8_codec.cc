// Codec `fp8`: E4M3 with one scale per token, head and side. Bytes and meaning: fp8_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/fp8_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>

#include "kernels/codec/codecs.h"
#include "kernels/codec/fp8_block.h"
#include "kernels/codec/row_codec.h"
#include "kernels/cpu/sanitize-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void Fp8EncodeRow(const float* x, size_t head_dim, std::byte* codes, uint16_t* params) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  auto largest_lanes = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    largest_lanes = hn::Max(largest_lanes, hn::Abs(LoadSanitized(d, x + i, kF16Largest)));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes));
  for (; i < head_dim; ++i) {
    largest = std::max(largest, std::fabs(F16Sanitize(x[i])));
  }
  params[0] = Fp8Scale(largest);
  if (params[0] == 0) {
    return;
  }
  const float scale = F16ToFloat(params[0]);
  for (i = 0; i + lanes <= head_dim; i += lanes) {
    const auto value = hn::Div(LoadSanitized(d, x + i, kF16Largest), hn::Set(d, scale));
    const auto magnitude = hn::Min(hn::Abs(value), hn::Set(d, kFp8Largest));
    const auto bits = hn::BitCast(d32, magnitude);
    const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(d32, 1));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(d32, 0x7ffffU)), odd);
    const auto normal = hn::Sub(hn::ShiftRight<20>(rounded), hn::Set(d32, 120U << 3));
    const auto steps = hn::BitCast(d32, hn::NearestInt(hn::Mul(magnitude, hn::Set(d, 512.0F))));
    const auto is_subnormal =
        hn::BitCast(d32, hn::VecFromMask(d, hn::Lt(magnitude, hn::Set(d, 0.015625F))));
    const auto sign = hn::And(hn::BitCast(d32, hn::VecFromMask(d, hn::Lt(value, hn::Zero(d)))),
                              hn::Set(d32, 0x80U));
    const auto code = hn::Or(sign, hn::IfVecThenElse(is_subnormal, steps, normal));
    hn::StoreU(hn::TruncateTo(d8, code), d8, reinterpret_cast<uint8_t*>(codes + i));
  }
  for (; i < head_dim; ++i) {
    codes[i] = static_cast<std::byte>(FloatToFp8(F16Sanitize(x[i]) / scale));
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(Fp8EncodeRow);

class Fp8 final : public RowCodec {
 public:
  CodecId id() const override { return CodecId::kFp8; }
  std::string_view name() const override { return "fp8"; }

 protected:
  RowFormat Format(size_t head_dim) const override { return Fp8Format(head_dim); }
  void EncodeRow(const float* x,
                 size_t head_dim,
                 std::byte* codes,
                 uint16_t* params) const override {
    HWY_DYNAMIC_DISPATCH(Fp8EncodeRow)(x, head_dim, codes, params);
  }
  void DecodeRow(const std::byte* codes,
                 const uint16_t* params,
                 size_t head_dim,
                 float* out) const override {
    const float scale = F16ToFloat(params[0]);
    for (size_t i = 0; i < head_dim; ++i) {
      out[i] = Fp8ToFloat(static_cast<uint8_t>(codes[i])) * scale;
    }
  }
};

}  // namespace

const Codec* Fp8Codec() {
  static const Fp8 kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
