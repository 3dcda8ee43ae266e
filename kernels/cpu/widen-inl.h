// Weights of any stored type in vector registers, per target.
#if defined(VARVE_KERNELS_CPU_WIDEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_WIDEN_INL_H_
#undef VARVE_KERNELS_CPU_WIDEN_INL_H_
#else
#define VARVE_KERNELS_CPU_WIDEN_INL_H_
#endif

#include <cstddef>
#include <cstring>

#include "kernels/cpu/bf16-inl.h"
#include "kernels/dense.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <DType kDType>
inline constexpr size_t kStoredBytes = kDType == DType::kF32 ? 4 : 2;

// Lanes(d) values starting at `bytes`, which need no alignment.
template <DType kDType, class D>
HWY_INLINE hn::Vec<D> LoadWide(D d, const std::byte* bytes) {
  if constexpr (kDType == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(bytes));
  } else if constexpr (kDType == DType::kBf16) {
    return LoadBf16(d, bytes);
  } else {
    const hn::Rebind<hwy::float16_t, D> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(bytes)));
  }
}

template <DType kDType>
HWY_INLINE float LoadWideScalar(const std::byte* bytes) {
  if constexpr (kDType == DType::kF32) {
    float value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  } else if constexpr (kDType == DType::kBf16) {
    uint16_t bits;
    std::memcpy(&bits, bytes, sizeof(bits));
    return Bf16ToFloat(bits);
  } else {
    // A vector of one value, so that scalars and vectors agree on every bit.
    const hn::FixedTag<float, 4> d;
    const hn::Rebind<hwy::float16_t, decltype(d)> d16;
    uint16_t padded[4] = {};
    std::memcpy(padded, bytes, sizeof(uint16_t));
    const auto half = hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(padded));
    return hn::GetLane(hn::PromoteTo(d, half));
  }
}

template <DType kDType>
void WidenRow(const std::byte* source, size_t count, float* out) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::StoreU(LoadWide<kDType>(d, source + i * kStoredBytes<kDType>), d, out + i);
  }
  for (; i < count; ++i) {
    out[i] = LoadWideScalar<kDType>(source + i * kStoredBytes<kDType>);
  }
}

inline void WidenRow(DType dtype, const std::byte* source, size_t count, float* out) {
  switch (dtype) {
    case DType::kF32:
      WidenRow<DType::kF32>(source, count, out);
      break;
    case DType::kBf16:
      WidenRow<DType::kBf16>(source, count, out);
      break;
    case DType::kF16:
      WidenRow<DType::kF16>(source, count, out);
      break;
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
