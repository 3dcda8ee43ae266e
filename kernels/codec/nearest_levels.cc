#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/nearest_levels.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/codec/float_order.h"
#include "kernels/codec/nearest_levels.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LevelTag = hn::CappedTag<float, 8>;
using LevelCodes = hn::Vec<hn::RebindToSigned<LevelTag>>;

// count + 1 in the lanes where x is above the threshold.
HWY_INLINE LevelCodes CountIfAbove(hn::Vec<LevelTag> x,
                                   hn::Vec<LevelTag> threshold,
                                   LevelCodes count) {
  const LevelTag d;
  const hn::RebindToSigned<LevelTag> d32;
  // A mask is -1.
  return hn::Sub(count, hn::BitCast(d32, hn::VecFromMask(d, hn::Gt(x, threshold))));
}

HWY_INLINE hn::Vec<LevelTag> LookUpEight(const float* table, LevelCodes index) {
  const LevelTag d;
  if constexpr (hn::MaxLanes(LevelTag()) == 8) {
    return hn::TableLookupLanes(hn::Load(d, table), hn::IndicesFromVec(d, index));
  } else {
    return hn::GatherIndex(d, table, index);
  }
}

template <size_t kBits>
void NearestLevelsOf(const LevelSearch& search, const float* x, size_t count, uint8_t* codes) {
  const LevelTag d;
  const hn::RebindToSigned<LevelTag> d32;
  const hn::Rebind<uint8_t, LevelTag> d8;
  constexpr size_t kRows = kBits > 3 ? size_t{1} << (kBits - 3) : 1;
  constexpr size_t kOthers = kBits > 3 ? 7 : (size_t{1} << kBits) - 1;
  for (size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto value = hn::LoadU(d, x + i);
    auto row = hn::Zero(d32);
#pragma GCC unroll 8
    for (size_t r = 0; r + 1 < kRows; ++r) {
      row = CountIfAbove(value, hn::Set(d, search.last[r]), row);
    }
    auto code = hn::ShiftLeft<3>(row);
#pragma GCC unroll 8
    for (size_t j = 0; j < kOthers; ++j) {
      const auto threshold =
          kRows == 1 ? hn::Set(d, search.others[j][0]) : LookUpEight(search.others[j], row);
      code = CountIfAbove(value, threshold, code);
    }
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
  }
}

void NearestLevelsByBits(const LevelSearch& search, const float* x, size_t count, uint8_t* codes) {
  switch (search.bits) {
    case 1:
      return NearestLevelsOf<1>(search, x, count, codes);
    case 2:
      return NearestLevelsOf<2>(search, x, count, codes);
    case 3:
      return NearestLevelsOf<3>(search, x, count, codes);
    case 4:
      return NearestLevelsOf<4>(search, x, count, codes);
    case 5:
      return NearestLevelsOf<5>(search, x, count, codes);
    default:
      return NearestLevelsOf<6>(search, x, count, codes);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(NearestLevelsByBits);

namespace {

// The largest x of [low, high] with x - low <= high - x, as NearestLevel rounds them: halfway is
// not always a float, nor the differences.
float Threshold(float low, float high) {
  int64_t below = Ordinal(low);
  int64_t above = int64_t{Ordinal(high)} + 1;
  while (below + 1 < above) {
    const int64_t middle = (below + above) / 2;
    const float x = OfOrdinal(static_cast<int32_t>(middle));
    (x - low <= high - x ? below : above) = middle;
  }
  return OfOrdinal(static_cast<int32_t>(below));
}

}  // namespace

LevelSearch MakeLevelSearch(std::span<const float> levels) {
  LevelSearch search;
  search.bits = static_cast<size_t>(std::bit_width(levels.size()) - 1);
  VARVE_CHECK(levels.size() == size_t{1} << search.bits && search.bits >= 1 &&
              search.bits <= kMaxLevelBits);
  std::fill_n(search.last, 8, std::numeric_limits<float>::infinity());
  std::fill_n(search.others[0], 7 * 8, std::numeric_limits<float>::infinity());
  for (size_t i = 0; i + 1 < levels.size(); ++i) {
    float* row = i % 8 == 7 ? search.last : search.others[i % 8];
    row[i / 8] = Threshold(levels[i], levels[i + 1]);
  }
  return search;
}

void NearestLevels(const LevelSearch& search, const float* x, size_t count, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(NearestLevelsByBits)(search, x, count, codes);
}

}  // namespace varve
#endif  // HWY_ONCE
