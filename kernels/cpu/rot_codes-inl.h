// Codes of rot4, rot3 and rot2 (codec/rot_block.h) in vector registers, per target.
#if defined(VARVE_KERNELS_CPU_ROT_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_ROT_CODES_INL_H_
#undef VARVE_KERNELS_CPU_ROT_CODES_INL_H_
#else
#define VARVE_KERNELS_CPU_ROT_CODES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/codec/rot_block.h"
#include "kernels/cpu/packed-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <size_t kBits>
struct RotCodes {
  static constexpr bool kIsCode = true;
  static constexpr float kStep = RotTableOf(kBits).step;
  static constexpr float kCentre = 0.0F;
  static constexpr bool kHasOffset = false;
  static constexpr bool kRotated = true;
  static RowFormat Format(size_t head_dim) { return RotFormat(kBits, head_dim); }
  static float Param(uint16_t bits) { return F16ToFloat(bits); }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i, size_t head_dim) {
    const hn::RebindToSigned<D> d32;
    constexpr size_t kLanes = hn::MaxLanes(D());
    constexpr size_t kMagnitudes = size_t{1} << (kBits - 1);
    const auto codes = LoadCodes<kBits>(d, row, i, head_dim);
    const auto table = hn::Load(d, kLevels.values);
    if constexpr (2 * kMagnitudes <= kLanes) {
      return hn::TableLookupLanes(table, hn::IndicesFromVec(d, codes));
    } else {
      // Only the magnitudes, the first half of the levels, fit: into one register or into two.
      constexpr auto kWithin = static_cast<int32_t>(std::min(kMagnitudes, kLanes) - 1);
      const auto within = hn::IndicesFromVec(d, hn::And(codes, hn::Set(d32, kWithin)));
      auto level = hn::TableLookupLanes(table, within);
      if constexpr (kMagnitudes > kLanes) {
        static_assert(kMagnitudes == 2 * kLanes);
        const auto next = hn::TableLookupLanes(hn::Load(d, kLevels.values + kLanes), within);
        const auto is_next = hn::ShiftLeft<33 - static_cast<int>(kBits)>(codes);
        level = hn::IfNegativeThenElse(hn::BitCast(d, is_next), next, level);
      }
      const auto sign = hn::ShiftLeft<32 - static_cast<int>(kBits)>(codes);
      return hn::CopySignToAbs(level, hn::BitCast(d, sign));
    }
  }
  static float LoadScalar(const std::byte* row, size_t i, size_t head_dim) {
    return RotLevel(kBits, UnpackCode(row, kBits, head_dim, i));
  }

 private:
  // Level of every code.
  struct Levels {
    constexpr Levels() {
      for (size_t code = 0; code < 32; ++code) {
        values[code] = RotLevel(kBits, static_cast<uint32_t>(code % (size_t{1} << kBits)));
      }
    }
    alignas(64) float values[32] = {};
  };
  static constexpr Levels kLevels{};
};

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
