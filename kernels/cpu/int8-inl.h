// Rows of int8 codes with one bfloat16 scale, per target; the meaning is codec/int8_block.h.
#if defined(VARVE_KERNELS_CPU_INT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_INT8_INL_H_
#undef VARVE_KERNELS_CPU_INT8_INL_H_
#else
#define VARVE_KERNELS_CPU_INT8_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/codec/int8_block.h"
#include "kernels/cpu/sanitize-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `count` values: codes to `codes`, returns the scale.
inline uint16_t Int8EncodeRow(const float* x, size_t count, std::byte* codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  auto largest_lanes = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    largest_lanes = hn::Max(largest_lanes, hn::Abs(LoadSanitized(d, x + i, kInt8Largest)));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes));
  for (; i < count; ++i) {
    largest = std::max(largest, std::fabs(Int8Sanitize(x[i])));
  }
  const uint16_t scale = Int8Scale(largest);
  if (scale == 0) {
    std::memset(codes, 0, count);
    return scale;
  }
  const auto step = hn::Set(d, Bf16ToFloat(scale));
  for (i = 0; i + lanes <= count; i += lanes) {
    const auto code = hn::NearestInt(hn::Div(LoadSanitized(d, x + i, kInt8Largest), step));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(d32, code)), d8, reinterpret_cast<int8_t*>(codes + i));
  }
  for (; i < count; ++i) {
    codes[i] = static_cast<std::byte>(Int8Code(x[i], scale));
  }
  return scale;
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
