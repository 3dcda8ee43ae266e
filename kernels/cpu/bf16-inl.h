// bfloat16 rows in vector registers, per target; the meaning is codec/bf16_block.h. Bytes need no
// alignment.
#if defined(VARVE_KERNELS_CPU_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_BF16_INL_H_
#undef VARVE_KERNELS_CPU_BF16_INL_H_
#else
#define VARVE_KERNELS_CPU_BF16_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/codec/bf16_block.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lanes(d) values starting at `bytes`.
template <class D>
HWY_INLINE hn::Vec<D> LoadBf16(D d, const std::byte* bytes) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(bytes));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

template <class D>
HWY_INLINE void StoreBf16(D /*d*/, hn::Vec<D> value, std::byte* bytes) {
  const hn::Rebind<int16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> ds32;
  const auto bits = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffU)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000U));
  const auto chosen = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(value)), quiet, rounded);
  // An arithmetic shift keeps every value inside int16, so that the saturating narrowing is exact.
  const auto narrow = hn::DemoteTo(d16, hn::ShiftRight<16>(hn::BitCast(ds32, chosen)));
  hn::StoreU(narrow, d16, reinterpret_cast<int16_t*>(bytes));
}

inline void WidenBf16(const std::byte* source, size_t count, float* out) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::StoreU(LoadBf16(d, source + 2 * i), d, out + i);
  }
  for (; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, sizeof(bits));
    out[i] = Bf16ToFloat(bits);
  }
}

inline void NarrowToBf16(const float* source, size_t count, std::byte* out) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    StoreBf16(d, hn::LoadU(d, source + i), out + 2 * i);
  }
  for (; i < count; ++i) {
    const uint16_t bits = FloatToBf16(source[i]);
    std::memcpy(out + 2 * i, &bits, sizeof(bits));
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
