#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/skvq_groups.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/codec/skvq_block.h"
#include "kernels/codec/skvq_groups.h"
#include "kernels/cpu/range-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void SkvqEnds(float alpha,
              const float* y,
              size_t num_tokens,
              size_t width,
              size_t stride,
              float* lows,
              float* highs) {
  for (size_t t = 0; t < num_tokens; ++t) {
    const FloatRange range = RangeOf(y + t * stride, width);
    lows[t] = SkvqLow(alpha, range.low, range.high);
    highs[t] = SkvqHigh(alpha, range.low, range.high);
  }
}

// SkvqCode of one token's group.
void SkvqCodes(size_t bits,
               const float* y,
               size_t width,
               float scale,
               float offset,
               uint8_t* codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const auto largest = hn::Set(d, static_cast<float>((1U << bits) - 1));
  size_t i = 0;
  for (; i + hn::Lanes(d) <= width && scale > 0.0F; i += hn::Lanes(d)) {
    const auto steps = hn::Div(hn::Sub(hn::LoadU(d, y + i), hn::Set(d, offset)), hn::Set(d, scale));
    const auto code = hn::NearestInt(hn::Min(hn::Max(steps, hn::Zero(d)), largest));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(d32, code)), d8, codes + i);
  }
  for (; i < width; ++i) {
    codes[i] = static_cast<uint8_t>(SkvqCode(bits, y[i], scale, offset));
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(SkvqEnds);
HWY_EXPORT(SkvqCodes);

SkvqCodedGroup CodeSkvqGroup(size_t bits,
                             float alpha,
                             const float* y,
                             size_t num_tokens,
                             size_t width,
                             size_t stride) {
  SkvqCodedGroup coded;
  coded.scales.resize(num_tokens);
  coded.offsets.resize(num_tokens);
  coded.codes.resize(num_tokens * width);
  std::vector<float> offsets(num_tokens);  // until rounded: the lower ends
  std::vector<float> scales(num_tokens);   // until rounded: the upper ends
  HWY_DYNAMIC_DISPATCH(SkvqEnds)
  (alpha, y, num_tokens, width, stride, offsets.data(), scales.data());
  float largest = 0.0F;
  for (const float offset : offsets) {
    largest = std::max(largest, std::fabs(offset));
  }
  coded.offset_unit = Fp8Scale(largest);
  const float offset_unit = F16ToFloat(coded.offset_unit);
  largest = 0.0F;
  for (size_t t = 0; t < num_tokens; ++t) {
    coded.offsets[t] = SkvqFp8(offsets[t], offset_unit);
    offsets[t] = Fp8ToFloat(coded.offsets[t]) * offset_unit;
    // Of both zeros the positive one, which the range's order of zeros must not decide.
    scales[t] = std::max(0.0F, scales[t] - offsets[t]) / static_cast<float>((1U << bits) - 1);
    largest = std::max(largest, scales[t]);
  }
  coded.scale_unit = Fp8Scale(largest);
  const float scale_unit = F16ToFloat(coded.scale_unit);
  for (size_t t = 0; t < num_tokens; ++t) {
    coded.scales[t] = SkvqFp8(scales[t], scale_unit);
    HWY_DYNAMIC_DISPATCH(SkvqCodes)
    (bits,
     y + t * stride,
     width,
     Fp8ToFloat(coded.scales[t]) * scale_unit,
     offsets[t],
     coded.codes.data() + t * width);
  }
  return coded;
}

}  // namespace varve
#endif  // HWY_ONCE
