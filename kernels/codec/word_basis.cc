#include "kernels/codec/word_basis.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/word_basis.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/cpu/pair_gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Largest magnitude, sum of magnitudes and of squares of each channel over the rows.
struct ChannelSizes {
  alignas(64) float largest[kMaxWordChannels];
  alignas(64) float sum[kMaxWordChannels];
  alignas(64) float square[kMaxWordChannels];
};

inline ChannelSizes SizesOf(const float* const* rows, size_t num_dims, size_t head_dim) {
  const GemmTag d;
  ChannelSizes sizes;
  for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    auto largest = hn::Zero(d);
    auto sum = hn::Zero(d);
    auto square = hn::Zero(d);
    for (size_t dim = 0; dim < num_dims; ++dim) {
      const auto x = hn::Abs(hn::LoadU(d, rows[dim] + i));
      largest = hn::Max(largest, x);
      sum = hn::Add(sum, x);
      square = hn::MulAdd(x, x, square);
    }
    hn::Store(largest, d, sizes.largest + i);
    hn::Store(sum, d, sizes.sum + i);
    hn::Store(square, d, sizes.square + i);
  }
  return sizes;
}

// Rows in units of their channels, pair by pair of rows: [head_dim / PanelWidth()][num_dims / 2,
// PanelWidth()].
void PackRowPairs(const float* const* rows,
                  size_t num_dims,
                  size_t head_dim,
                  const float* inverse_units,
                  int32_t* panels) {
  const GemmTag d;
  const GemmWordTag d32;
  for (size_t column = 0; column < head_dim; column += PanelWidth()) {
    for (size_t dim = 0; dim < num_dims; dim += 2) {
      for (size_t i = column; i < column + PanelWidth();
           i += hn::Lanes(d), panels += hn::Lanes(d)) {
        const auto unit = hn::LoadU(d, inverse_units + i);
        const auto first = hn::NearestInt(hn::Mul(hn::LoadU(d, rows[dim] + i), unit));
        const auto second = hn::NearestInt(hn::Mul(hn::LoadU(d, rows[dim + 1] + i), unit));
        hn::StoreU(
            hn::Or(hn::And(first, hn::Set(d32, 0xffff)), hn::ShiftLeft<16>(second)), d32, panels);
      }
    }
  }
}

void PackWordBasisOnTarget(const float* const* rows,
                           size_t num_dims,
                           size_t head_dim,
                           const float* mean,
                           float norm,
                           WordBasis* basis,
                           float* key_steps) {
  const ChannelSizes sizes = SizesOf(rows, num_dims, head_dim);
  // Cauchy and Schwarz: no key whose coefficients are shorter leaves a word.
  basis->num_dims = num_dims;
  basis->norm_limit = 1.25F * norm;
  const size_t half = head_dim / 2;
  const auto largest = [&](size_t i) {
    return std::fabs(mean[i]) + basis->norm_limit * std::sqrt(sizes.square[i]);
  };
  alignas(64) float inverse_units[kMaxWordChannels];
  // Half a unit of rounding for each row is what is left of 2^31.
  constexpr float kLargestSum = 2147000000.0F / kMaxCoefficient - 0.5F * kMaxWordChannels;
  for (size_t i = 0; i < head_dim; ++i) {
    const float unit =
        std::max({sizes.largest[i] / kMaxPairCode, sizes.sum[i] / kLargestSum, 1e-30F});
    const float pair = std::hypot(largest(i % half), largest(i % half + half));
    const float step = std::max(pair, 1e-30F) / kMaxKeyPair;
    inverse_units[i] = 1.0F / unit;
    key_steps[i] = step;
    basis->factors[i] = unit / step;
    basis->means[i] = mean[i] / step;
  }
  PackRowPairs(rows, num_dims, head_dim, inverse_units, basis->panels);
}

// What becomes of the sums of a panel.
struct SumsToWords {
  const float* factors;
  const float* means;
  const float* token_factors;
  const float* token_inverses;  // of the tokens' scales
  size_t stride;
  int16_t* words;

  HWY_INLINE void Take(size_t row, hn::Vec<GemmTag> low, hn::Vec<GemmTag> high) const {
    TakeHalf(row, 0, low);
    TakeHalf(row, hn::Lanes(GemmTag()), high);
  }

 private:
  HWY_INLINE void TakeHalf(size_t row, size_t i, hn::Vec<GemmTag> sum) const {
    const GemmTag d;
    const hn::Rebind<int16_t, GemmTag> d16;
    const auto factor = hn::Mul(hn::Set(d, token_factors[row]), hn::LoadU(d, factors + i));
    const auto mean = hn::Mul(hn::Set(d, token_inverses[row]), hn::LoadU(d, means + i));
    const auto word = hn::NearestInt(hn::MulAdd(sum, factor, mean));
    hn::StoreU(hn::DemoteTo(d16, word), d16, words + row * stride + i);
  }
};

// Squares of a row of coefficients, added up: in 32 bits for each of four lanes.
static_assert(kMaxWordChannels / 4 * kMaxCoefficient * kMaxCoefficient < size_t{1} << 31);
template <bool kVnni>
HWY_INLINE float SquareSum(const int16_t* coefficients, size_t count) {
  const hn::FixedTag<int16_t, 8> d16;
  const hn::FixedTag<int32_t, 4> d32;
  auto sum = hn::Zero(d32);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const auto eight = hn::LoadU(d16, coefficients + i);
    sum = AddPairProducts<kVnni>(sum, eight, eight);
  }
  const hn::RebindToFloat<decltype(d32)> d;
  float total = hn::GetLane(hn::SumOfLanes(d, hn::ConvertTo(d, sum)));
  for (; i < count; ++i) {
    total += static_cast<float>(coefficients[i] * coefficients[i]);
  }
  return total;
}

template <bool kVnni>
void MultiplyWith(const WordBasis& basis,
                  size_t head_dim,
                  const int16_t* coefficients,
                  size_t stride,
                  const float* factors,
                  size_t num_tokens,
                  int16_t* words,
                  float* scales) {
  float token_factors[kWordTokens];
  float token_inverses[kWordTokens];
  for (size_t t = 0; t < num_tokens; ++t) {
    const float norm =
        factors[t] * std::sqrt(SquareSum<kVnni>(coefficients + t * stride, basis.num_dims));
    scales[t] = std::max(1.0F, norm / basis.norm_limit);
    token_inverses[t] = 1.0F / scales[t];
    token_factors[t] = factors[t] * token_inverses[t];
  }
  const size_t num_pairs = basis.num_dims / 2;
  for (size_t i = 0; i < head_dim; i += PanelWidth()) {
    MultiplyPairPanel<kVnni>(coefficients,
                             stride,
                             num_tokens,
                             basis.panels + i * num_pairs,
                             num_pairs,
                             SumsToWords{basis.factors + i,
                                         basis.means + i,
                                         token_factors,
                                         token_inverses,
                                         head_dim,
                                         words + i});
  }
}

void MultiplyWordBasisOnTarget(const WordBasis& basis,
                               size_t head_dim,
                               const int16_t* coefficients,
                               size_t stride,
                               const float* factors,
                               size_t num_tokens,
                               int16_t* words,
                               float* scales) {
  if constexpr (HWY_TARGET == HWY_AVX3) {
    if (HasVnni()) {
      MultiplyWith<true>(basis, head_dim, coefficients, stride, factors, num_tokens, words, scales);
      return;
    }
  }
  MultiplyWith<false>(basis, head_dim, coefficients, stride, factors, num_tokens, words, scales);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(PackWordBasisOnTarget);
HWY_EXPORT(MultiplyWordBasisOnTarget);

void PackWordBasis(const float* const* rows,
                   size_t num_dims,
                   size_t head_dim,
                   const float* mean,
                   float norm,
                   WordBasis* basis,
                   float* key_steps) {
  HWY_DYNAMIC_DISPATCH(PackWordBasisOnTarget)
  (rows, num_dims, head_dim, mean, norm, basis, key_steps);
}

void MultiplyWordBasis(const WordBasis& basis,
                       size_t head_dim,
                       const int16_t* coefficients,
                       size_t stride,
                       const float* factors,
                       size_t num_tokens,
                       int16_t* words,
                       float* scales) {
  HWY_DYNAMIC_DISPATCH(MultiplyWordBasisOnTarget)
  (basis, head_dim, coefficients, stride, factors, num_tokens, words, scales);
}

}  // namespace varve
#endif  // HWY_ONCE
