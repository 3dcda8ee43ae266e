// Codes in groups of eight values, per target: a group of `bits` bits a value is `bits` bytes, bit
// j of byte b being bit b of value j.
#if defined(VARVE_KERNELS_CPU_GROUP_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_GROUP_CODES_INL_H_
#undef VARVE_KERNELS_CPU_GROUP_CODES_INL_H_
#else
#define VARVE_KERNELS_CPU_GROUP_CODES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A group has eight values: on targets with four lanes it is two vectors.
using GroupTag = hn::CappedTag<float, 8>;

template <size_t kBits>
HWY_INLINE void LoadGroupOf(const std::byte* codes, const float* levels, float scale, float* out) {
  const GroupTag d;
  const hn::RebindToSigned<GroupTag> d32;
  for (size_t lane = 0; lane < 8; lane += hn::Lanes(d)) {
    const auto masks = hn::Shl(hn::Set(d32, 1), hn::Iota(d32, static_cast<int32_t>(lane)));
    auto code = hn::Zero(d32);
#pragma GCC unroll 8
    for (size_t b = 0; b < kBits; ++b) {
      const auto byte = hn::Set(d32, static_cast<int32_t>(codes[b]));
      const auto is_set = hn::VecFromMask(d32, hn::TestBit(byte, masks));
      code = hn::Or(code, hn::And(is_set, hn::Set(d32, 1 << b)));
    }
    hn::StoreU(hn::Mul(hn::GatherIndex(d, levels, code), hn::Set(d, scale)), d, out + lane);
  }
}

// out[j] = levels[code of value j] * scale. levels: [2^bits]. REQUIRES: bits is 1 to 8.
HWY_INLINE void LoadGroup(const std::byte* codes,
                          size_t bits,
                          const float* levels,
                          float scale,
                          float* out) {
  switch (bits) {
    case 1:
      return LoadGroupOf<1>(codes, levels, scale, out);
    case 2:
      return LoadGroupOf<2>(codes, levels, scale, out);
    case 3:
      return LoadGroupOf<3>(codes, levels, scale, out);
    case 4:
      return LoadGroupOf<4>(codes, levels, scale, out);
    case 5:
      return LoadGroupOf<5>(codes, levels, scale, out);
    case 6:
      return LoadGroupOf<6>(codes, levels, scale, out);
    case 7:
      return LoadGroupOf<7>(codes, levels, scale, out);
    default:
      return LoadGroupOf<8>(codes, levels, scale, out);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
