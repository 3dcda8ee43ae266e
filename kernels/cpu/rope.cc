// The rotations of kernels/rope.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/rope.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// (a_cos, a_sin) = (a_cos, a_sin) * (b_cos, b_sin) as complex numbers; pairs each.
void MultiplyTurns(const float* b, size_t pairs, float* a) {
  const hn::CappedTag<float, 8> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= pairs; i += hn::Lanes(d)) {
    const auto a_cos = hn::LoadU(d, a + i);
    const auto a_sin = hn::LoadU(d, a + pairs + i);
    const auto b_cos = hn::LoadU(d, b + i);
    const auto b_sin = hn::LoadU(d, b + pairs + i);
    hn::StoreU(hn::Sub(hn::Mul(a_cos, b_cos), hn::Mul(a_sin, b_sin)), d, a + i);
    hn::StoreU(hn::Add(hn::Mul(a_cos, b_sin), hn::Mul(a_sin, b_cos)), d, a + pairs + i);
  }
  for (; i < pairs; ++i) {
    const float a_cos = a[i];
    const float a_sin = a[pairs + i];
    a[i] = a_cos * b[i] - a_sin * b[pairs + i];
    a[pairs + i] = a_cos * b[pairs + i] + a_sin * b[i];
  }
}

// Rotates one row by `turn`, or by its inverse.
void TurnRow(const float* turn, size_t pairs, bool back, float* x) {
  const hn::CappedTag<float, 8> d;
  const auto sign = hn::Set(d, back ? -1.0F : 1.0F);
  size_t i = 0;
  for (; i + hn::Lanes(d) <= pairs; i += hn::Lanes(d)) {
    const auto cos = hn::LoadU(d, turn + i);
    const auto sin = hn::Mul(hn::LoadU(d, turn + pairs + i), sign);
    const auto first = hn::LoadU(d, x + i);
    const auto second = hn::LoadU(d, x + pairs + i);
    hn::StoreU(hn::Sub(hn::Mul(first, cos), hn::Mul(second, sin)), d, x + i);
    hn::StoreU(hn::Add(hn::Mul(second, cos), hn::Mul(first, sin)), d, x + pairs + i);
  }
  for (; i < pairs; ++i) {
    const float sin = back ? -turn[pairs + i] : turn[pairs + i];
    const float first = x[i];
    const float second = x[pairs + i];
    x[i] = first * turn[i] - second * sin;
    x[pairs + i] = second * turn[i] + first * sin;
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MultiplyTurns);
HWY_EXPORT(TurnRow);

namespace {

void Turn(const Rope& rope,
          const RopePositions& positions,
          size_t num_tokens,
          bool back,
          float* x) {
  constexpr size_t kMaxHeadDim = 256;
  VARVE_CHECK(rope.head_dim() <= kMaxHeadDim);
  alignas(64) float turn[kMaxHeadDim];
  int64_t turned_by = -1;
  for (size_t t = 0; t < num_tokens; ++t) {
    const int64_t offset =
        positions.offsets == nullptr ? static_cast<int64_t>(t) : positions.offsets[t];
    if (positions.first + offset != turned_by) {
      turned_by = positions.first + offset;
      rope.Turn(turned_by, turn);
    }
    HWY_DYNAMIC_DISPATCH(TurnRow)(turn, rope.head_dim() / 2, back, x + t * rope.head_dim());
  }
}

}  // namespace

Rope::Rope(const RopeSpec& spec)
    : head_dim_(2 * spec.inv_freq.size()), table_(kLevels * kDigits * head_dim_) {
  const size_t pairs = spec.inv_freq.size();
  double scale = 1.0;
  for (size_t level = 0; level < kLevels; ++level, scale *= kDigits) {
    for (size_t digit = 0; digit < kDigits; ++digit) {
      float* row = table_.data() + (level * kDigits + digit) * head_dim_;
      for (size_t i = 0; i < pairs; ++i) {
        const double angle = scale * static_cast<double>(digit) * spec.inv_freq[i];
        row[i] = static_cast<float>(std::cos(angle));
        row[pairs + i] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

void Rope::Turn(int64_t position, float* out) const {
  VARVE_DCHECK(position >= 0 && position >> (8 * kLevels) == 0);
  std::copy_n(Row(0, position % kDigits), head_dim_, out);
  for (size_t level = 1; level < kLevels; ++level) {
    const size_t digit = static_cast<size_t>(position) >> (8 * level) & (kDigits - 1);
    if (digit != 0) {
      HWY_DYNAMIC_DISPATCH(MultiplyTurns)(Row(level, digit), head_dim_ / 2, out);
    }
  }
}

void TurnRows(const Rope& rope, const RopePositions& positions, size_t num_tokens, float* x) {
  Turn(rope, positions, num_tokens, /*back=*/false, x);
}

void TurnRowsBack(const Rope& rope, const RopePositions& positions, size_t num_tokens, float* x) {
  Turn(rope, positions, num_tokens, /*back=*/true, x);
}

}  // namespace varve
#endif  // HWY_ONCE
