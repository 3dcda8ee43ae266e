// Weights and activations become integers, as weight_block.h says.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantise.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/int8-inl.h"
#include "kernels/cpu/matmul_parts.h"
#include "kernels/cpu/widen-inl.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// All groups of one panel.
void QuantisePanelOnTarget(const WeightView& w, size_t panel, WeightBlock* blocks) {
  const size_t value_bytes = DTypeBytes(w.dtype);
  const size_t first_row = panel * kWeightPanelRows;
  const size_t num_rows = std::min(kWeightPanelRows, w.rows - first_row);
  for (size_t group = 0; group < WeightGroups(w.cols); ++group) {
    WeightBlock& block = blocks[group];
    std::memset(&block, 0, sizeof(block));
    const size_t col = group * kWeightGroupCols;
    const size_t num_cols = std::min(kWeightGroupCols, w.cols - col);
    for (size_t row = 0; row < num_rows; ++row) {
      float values[kWeightGroupCols] = {};
      WidenRow(w.dtype,
               static_cast<const std::byte*>(w.data) +
                   ((first_row + row) * w.row_stride + col) * value_bytes,
               num_cols,
               values);
      int8_t codes[kWeightGroupCols];
      block.scales[row] =
          Int8EncodeRow(values, kWeightGroupCols, reinterpret_cast<std::byte*>(codes));
      for (size_t pair = 0; pair < kWeightGroupCols / 2; ++pair) {
        std::memcpy(block.codes[pair][row], codes + 2 * pair, 2);
      }
    }
  }
}

// One group of one token, zeros where x has no value.
HWY_INLINE void QuantiseGroup(const float* x, int16_t* codes, float* scale) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<int16_t, decltype(d)> d16;
  const size_t lanes = hn::Lanes(d);
  auto largest_lanes = hn::Zero(d);
  auto not_finite = hn::Zero(d);  // NaN in a lane that saw NaN or infinity
  for (size_t i = 0; i < kWeightGroupCols; i += lanes) {
    const auto value = hn::LoadU(d, x + i);
    largest_lanes = hn::Max(largest_lanes, hn::Abs(value));
    not_finite = hn::Add(not_finite, hn::Mul(value, hn::Zero(d)));
  }
  if (!hn::AllTrue(d, hn::Eq(not_finite, not_finite))) {
    std::memset(codes, 0, kWeightGroupCols * sizeof(*codes));
    *scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const float largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes));
  *scale = ActivationScale(largest);
  const auto steps =
      hn::Set(d, largest < kActivationSmallest ? 0.0F : kActivationMaxCode / largest);
  for (size_t i = 0; i < kWeightGroupCols; i += lanes) {
    const auto code = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), steps));
    hn::StoreU(hn::DemoteTo(d16, code), d16, codes + i);
  }
}

void QuantiseTokenOnTarget(const float* x,
                           size_t cols,
                           size_t first_col,
                           int16_t* codes,
                           float* scales) {
  const size_t skew = first_col % kWeightGroupCols;
  const size_t num_groups = WeightGroups(skew + cols);
  for (size_t group = 0; group < num_groups; ++group) {
    // Columns of x: the first and the last group may reach beyond them.
    const size_t begin = group == 0 ? 0 : group * kWeightGroupCols - skew;
    const size_t end = std::min((group + 1) * kWeightGroupCols - skew, cols);
    if (end - begin == kWeightGroupCols) {
      QuantiseGroup(x + begin, codes + group * kWeightGroupCols, scales + group);
      continue;
    }
    float values[kWeightGroupCols] = {};
    std::memcpy(values + (group == 0 ? skew : 0), x + begin, (end - begin) * sizeof(*values));
    QuantiseGroup(values, codes + group * kWeightGroupCols, scales + group);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(QuantisePanelOnTarget);
HWY_EXPORT(QuantiseTokenOnTarget);

WeightView QuantiseWeights(const WeightView& w, WeightBlock* blocks, ThreadTeam& team) {
  VARVE_CHECK(w.blocks == nullptr);
  const size_t row_groups = WeightGroups(w.cols);
  team.ParallelFor(WeightPanels(w.rows), [&](size_t panel, int /*thread*/) {
    HWY_DYNAMIC_DISPATCH(QuantisePanelOnTarget)(w, panel, blocks + panel * row_groups);
  });
  return {.rows = w.rows, .cols = w.cols, .blocks = blocks, .row_groups = row_groups};
}

void QuantiseToken(const float* x, size_t cols, size_t first_col, int16_t* codes, float* scales) {
  HWY_DYNAMIC_DISPATCH(QuantiseTokenOnTarget)(x, cols, first_col, codes, scales);
}

}  // namespace varve
#endif  // HWY_ONCE
