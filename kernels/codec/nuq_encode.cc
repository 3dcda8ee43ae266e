#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/nuq_encode.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/codec/f16_block.h"
#include "kernels/codec/float_order.h"
#include "kernels/codec/nearest_levels.h"
#include "kernels/codec/nuq_encode.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/range-inl.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

FloatRange NuqRange(const float* x, size_t count) {
  return RangeOf(x, count);
}

// What would stand at `place` if the numbers were sorted. By bisection: a partial sort mispredicts
// every other branch and takes four times as long.
float Select(const float* x, size_t count, size_t place) {
  const hn::ScalableTag<int32_t> d;
  const size_t lanes = hn::Lanes(d);
  const size_t padded = (count + lanes - 1) / lanes * lanes;
  alignas(64) int32_t ordinals[kMaxHeadDim + hn::MaxLanes(d)];
  for (size_t i = 0; i < count; ++i) {
    ordinals[i] = Ordinal(x[i]);
  }
  std::fill(ordinals + count, ordinals + padded, std::numeric_limits<int32_t>::max());
  int64_t low = std::numeric_limits<int32_t>::min();
  int64_t high = std::numeric_limits<int32_t>::max();
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    auto above = hn::Zero(d);
    for (size_t i = 0; i < padded; i += lanes) {
      const auto is_above =
          hn::Gt(hn::Load(d, ordinals + i), hn::Set(d, static_cast<int32_t>(middle)));
      // A mask is -1.
      above = hn::Sub(above, hn::VecFromMask(d, is_above));
    }
    const auto num_above = static_cast<size_t>(hn::GetLane(hn::SumOfLanes(d, above)));
    if (padded - num_above > place) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return OfOrdinal(static_cast<int32_t>(low));
}

void ScaleKeys(const NuqTables& tables, const float* x, size_t head_dim, float* y) {
  for (size_t i = 0; i < head_dim; ++i) {
    y[i] = (x[i] - tables.offsets[i]) / tables.scales[i];
  }
}

void ScaleValues(float scale, float offset, const float* x, size_t head_dim, float* y) {
  for (size_t i = 0; i < head_dim; ++i) {
    y[i] = (x[i] - offset) / scale;
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(NuqRange);
HWY_EXPORT(Select);
HWY_EXPORT(ScaleKeys);
HWY_EXPORT(ScaleValues);

namespace {

// The places of the `count` numbers of largest magnitude, ascending; of equal ones the first.
std::vector<size_t> Farthest(const float* x, size_t size, size_t count) {
  float magnitudes[kMaxHeadDim];
  std::transform(x, x + size, magnitudes, [](float value) { return std::fabs(value); });
  std::vector<size_t> places(count);
  for (size_t& place : places) {
    const float largest = HWY_DYNAMIC_DISPATCH(NuqRange)(magnitudes, size).high;
    float* found = std::find(magnitudes, magnitudes + size, largest);
    place = static_cast<size_t>(found - magnitudes);
    *found = -1.0F;
  }
  std::sort(places.begin(), places.end());
  return places;
}

void StoreHalf(uint16_t half, std::byte* out) {
  std::memcpy(out, &half, sizeof(half));
}

void StoreOutliers(const NuqLayout& at,
                   size_t token,
                   const float* row,
                   const std::vector<size_t>& dims,
                   std::byte* out) {
  for (size_t i = 0; i < dims.size(); ++i) {
    const size_t place = token * at.num_outliers + i;
    out[at.dims + place] = static_cast<std::byte>(dims[i]);
    StoreHalf(FloatToF16(row[dims[i]]), out + at.outliers + place * sizeof(uint16_t));
  }
}

// A row divided by its scales, and zeros up to the end of the last unit.
struct ScaledRow {
  alignas(64) float values[RowCodes::kSize] = {};
};

void StoreCodes(const LevelSearch& search, const ScaledRow& row, size_t head_dim, std::byte* out) {
  RowCodes codes;
  const size_t padded = (head_dim + 7) / 8 * 8;
  NearestLevels(search, row.values, padded, codes.codes);
  std::fill(codes.codes + head_dim, codes.codes + RowCodes::kSize, uint8_t{0});
  PackRow(codes, search.bits, head_dim, out);
}

}  // namespace

NuqRow SplitNuqRow(std::span<const float> v, size_t num_outliers) {
  VARVE_CHECK(v.size() <= kMaxHeadDim);
  NuqRow row;
  float others[kMaxHeadDim];
  std::copy(v.begin(), v.end(), others);
  if (num_outliers != 0) {
    const float median = HWY_DYNAMIC_DISPATCH(Select)(others, v.size(), v.size() / 2);
    std::transform(v.begin(), v.end(), others, [median](float x) { return x - median; });
    row.outliers = Farthest(others, v.size(), num_outliers);
    std::copy(v.begin(), v.end(), others);
    for (const size_t dim : row.outliers) {
      others[dim] = median;
    }
  }
  const FloatRange range = HWY_DYNAMIC_DISPATCH(NuqRange)(others, v.size());
  row.scale = (range.high - range.low) / 2.0F;
  row.offset = range.low / 2.0F + range.high / 2.0F;
  return row;
}

void EncodeNuqKeys(size_t bits,
                   const NuqLayout& at,
                   const NuqTables& tables,
                   size_t num_tokens,
                   size_t head_dim,
                   const float* x,
                   std::byte* out) {
  const LevelSearch search = MakeLevelSearch({tables.key_levels, size_t{1} << bits});
  ScaledRow row;
  for (size_t t = 0; t < num_tokens; ++t, x += head_dim) {
    HWY_DYNAMIC_DISPATCH(ScaleKeys)(tables, x, head_dim, row.values);
    if (at.num_outliers != 0) {
      StoreOutliers(at, t, x, Farthest(row.values, head_dim, at.num_outliers), out);
    }
    StoreCodes(search, row, head_dim, out + t * at.row_bytes);
  }
}

void EncodeNuqValues(size_t bits,
                     const NuqLayout& at,
                     const NuqTables& tables,
                     size_t num_tokens,
                     size_t head_dim,
                     const float* x,
                     std::byte* out) {
  const LevelSearch search = MakeLevelSearch({tables.value_levels, size_t{1} << bits});
  ScaledRow row;
  for (size_t t = 0; t < num_tokens; ++t, x += head_dim) {
    const NuqRow split = SplitNuqRow({x, head_dim}, at.num_outliers);
    StoreOutliers(at, t, x, split.outliers, out);
    const uint16_t scale = FloatToF16(split.scale);
    const uint16_t offset = FloatToF16(split.offset + 0.0F);
    StoreHalf(scale, out + at.scales + t * sizeof(uint16_t));
    StoreHalf(offset, out + at.offsets + t * sizeof(uint16_t));
    if (F16ToFloat(scale) > 0.0F) {
      HWY_DYNAMIC_DISPATCH(ScaleValues)
      (F16ToFloat(scale), F16ToFloat(offset), x, head_dim, row.values);
      StoreCodes(search, row, head_dim, out + t * at.row_bytes);
    }
  }
}

}  // namespace varve
#endif  // HWY_ONCE
