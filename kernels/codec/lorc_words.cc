#include "kernels/codec/lorc_words.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/lorc_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/codec/int_block.h"
#include "kernels/codec/word_basis.h"
#include "kernels/cpu/level_words.h"
#include "kernels/cpu/pair_dot-inl.h"
#include "kernels/cpu/widen-inl.h"

#ifndef VARVE_KERNELS_CODEC_LORC_WORDS_ONCE_
#define VARVE_KERNELS_CODEC_LORC_WORDS_ONCE_
namespace varve {

inline constexpr size_t kLorcCodes = size_t{1} << kLorcBits;

// Words of the codes of one row.
struct LorcLevels {
  int16_t words[kLorcCodes];
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Words of one row's codes, up to the end of their last unit.
HWY_INLINE void LorcRowWords(const LorcLevels& levels,
                             const std::byte* codes,
                             size_t rank,
                             int16_t* out) {
  const hn::FixedTag<uint8_t, 16> d8;
  const hn::Half<decltype(d8)> d_unit;
  const hn::FixedTag<int16_t, 8> d16;
  const auto first = hn::BitCast(d8, hn::LoadU(d16, levels.words));
  const auto second = hn::BitCast(d8, hn::LoadU(d16, levels.words + 8));
  const auto low_bytes = hn::ConcatEven(d8, second, first);
  const auto high_bytes = hn::ConcatOdd(d8, second, first);
  static_assert(kLorcBits == 4);
  for (size_t i = 0; i < rank; i += 2 * kUnitBytes, codes += kUnitBytes) {
    const auto unit = hn::LoadU(d_unit, reinterpret_cast<const uint8_t*>(codes));
    const auto places =
        hn::Combine(d8, hn::ShiftRight<4>(unit), hn::And(unit, hn::Set(d_unit, 0xf)));
    const auto low = hn::TableLookupBytes(low_bytes, places);
    const auto high = hn::TableLookupBytes(high_bytes, places);
    hn::StoreU(hn::BitCast(d16, hn::InterleaveLower(d8, low, high)), d16, out + i);
    hn::StoreU(hn::BitCast(d16, hn::InterleaveUpper(d8, low, high)), d16, out + i + 8);
  }
}

// y as words, in `factors` of the tokens. coefficients: [num_tokens, stride].
void LorcCoefficients(const LorcLayout& at,
                      size_t rank,
                      const std::byte* encoded,
                      size_t first_token,
                      size_t num_tokens,
                      size_t stride,
                      int16_t* coefficients,
                      float* factors) {
  for (size_t t = 0; t < num_tokens; ++t) {
    const size_t token = first_token + t;
    const float scale = LoadWideScalar<DType::kF16>(encoded + at.scales + 2 * token);
    const float offset = LoadWideScalar<DType::kF16>(encoded + at.offsets + 2 * token);
    float y[kLorcCodes];
    for (uint32_t code = 0; code < kLorcCodes; ++code) {
      y[code] = IntDecode(code, scale, offset);
    }
    LorcLevels levels;
    factors[t] = QuantizeToPairs(y, kLorcCodes, kMaxCoefficient, levels.words);
    LorcRowWords(levels, encoded + token * at.row_bytes, rank, coefficients + t * stride);
  }
}

void LorcValueWordsOnTarget(const LorcLayout& at,
                            const int8_t* levels,
                            size_t rank,
                            size_t head_dim,
                            const std::byte* encoded,
                            size_t first_token,
                            size_t num_tokens,
                            int16_t* out) {
  LorcLevels by;
  std::copy_n(levels, kLorcCodes, by.words);
  for (size_t t = 0; t < num_tokens; ++t, out += head_dim) {
    LorcRowWords(by, encoded + (first_token + t) * at.row_bytes, rank, out);
    std::fill(out + rank, out + head_dim, int16_t{0});
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(LorcCoefficients);
HWY_EXPORT(LorcValueWordsOnTarget);

namespace {

// Made once for the tables of a kv head, in memory of WordTables::own; the panels follow.
WordBasis& BasisOf(const WordTables& tables) {
  return *reinterpret_cast<WordBasis*>(tables.own);
}

static_assert(sizeof(WordBasis) + WordBasisPanelBytes(kMaxWordChannels) <= kWordOwnBytes);

}  // namespace

void LoadLorcWords(const LorcTables& keys, size_t head_dim, WordTables* out) {
  static constexpr float kNone[kMaxWordChannels] = {};
  const float* rows[kMaxWordChannels];
  for (size_t r = 0; r < keys.rank; ++r) {
    rows[r] = keys.inverse + r * head_dim;
  }
  size_t num_dims = keys.rank;
  if (num_dims % 2 != 0) {
    rows[num_dims++] = kNone;
  }
  WordBasis& basis = BasisOf(*out);
  basis.panels = reinterpret_cast<int32_t*>(out->own + sizeof(WordBasis));
  const float norm = std::sqrt(static_cast<float>(keys.rank));
  PackWordBasis(rows, num_dims, head_dim, keys.mean, norm, &basis, out->key_steps);
  LoadStepLevels(out);
}

void DecodeLorcKeyWords(const WordTables& tables,
                        const LorcLayout& at,
                        size_t rank,
                        size_t head_dim,
                        const std::byte* encoded,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        float* steps) {
  int16_t coefficients[kWordTokens * kMaxWordChannels];
  float factors[kWordTokens];
  HWY_DYNAMIC_DISPATCH(LorcCoefficients)
  (at, rank, encoded, first_token, num_tokens, head_dim, coefficients, factors);
  MultiplyWordBasis(
      BasisOf(tables), head_dim, coefficients, head_dim, factors, num_tokens, words, steps);
}

void DecodeLorcValueWords(const WordTables& tables,
                          const LorcLayout& at,
                          size_t rank,
                          size_t head_dim,
                          const std::byte* encoded,
                          size_t first_token,
                          size_t num_tokens,
                          int16_t* words) {
  HWY_DYNAMIC_DISPATCH(LorcValueWordsOnTarget)
  (at, tables.value_levels, rank, head_dim, encoded, first_token, num_tokens, words);
}

}  // namespace varve
#endif  // HWY_ONCE
