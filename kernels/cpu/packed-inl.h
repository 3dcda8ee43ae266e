// Packed codes (codec/row_block.h) in vector registers, per target.
#if defined(VARVE_KERNELS_CPU_PACKED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_PACKED_INL_H_
#undef VARVE_KERNELS_CPU_PACKED_INL_H_
#else
#define VARVE_KERNELS_CPU_PACKED_INL_H_
#endif

#include <cstddef>

#include "kernels/codec/row_block.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Packed codes (row_block.h) of Lanes(d) values from `i` on, a multiple of Lanes(d).
template <size_t kBits, class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> LoadPlane(D /*d*/, const std::byte* plane, size_t i) {
  const hn::RebindToSigned<D> d32;
  if constexpr (hn::MaxLanes(D()) > 8) {
    const hn::Half<D> half;
    return hn::Combine(d32, LoadPlane<kBits>(half, plane, i + 8), LoadPlane<kBits>(half, plane, i));
  } else {
    const hn::RebindToUnsigned<D> du32;
    const hn::Rebind<uint8_t, D> d8;
    const PackedPlace place = PlaceOf(kBits, i);
    const auto bytes = hn::LoadU(d8, reinterpret_cast<const uint8_t*>(plane + place.byte));
    auto codes = hn::PromoteTo(du32, bytes);
    if constexpr (kBits < 8) {
      codes = hn::And(hn::ShiftRightSame(codes, static_cast<int>(place.shift)),
                      hn::Set(du32, (1U << kBits) - 1));
    }
    return hn::BitCast(d32, codes);
  }
}

template <size_t kBits, class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> LoadCodes(D d,
                                                    const std::byte* row,
                                                    size_t i,
                                                    size_t head_dim) {
  if constexpr (kBits == 3) {
    const auto low = LoadPlane<2>(d, row, i);
    const auto high = LoadPlane<1>(d, row + PlaneBytes(2, head_dim), i);
    return hn::Or(low, hn::ShiftLeft<2>(high));
  } else {
    return LoadPlane<kBits>(d, row, i);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
