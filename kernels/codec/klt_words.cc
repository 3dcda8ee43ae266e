#include "kernels/codec/klt_words.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/klt_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/rotate-inl.h"

#ifndef VARVE_KERNELS_CODEC_KLT_WORDS_ONCE_
#define VARVE_KERNELS_CODEC_KLT_WORDS_ONCE_
namespace varve {

// Bit j of a byte as bit 0 of byte j.
struct SpreadBits {
  constexpr SpreadBits() {
    for (size_t byte = 0; byte < 256; ++byte) {
      for (size_t j = 0; j < 8; ++j) {
        values[byte] |= static_cast<uint64_t>(byte >> j & 1) << 8 * j;
      }
    }
  }
  uint64_t values[256] = {};
};
inline constexpr SpreadBits kSpreadBits;

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The codes of a group, a byte each.
template <size_t kBits>
HWY_INLINE uint64_t GroupCodes(const std::byte* codes) {
  uint64_t eight = 0;
#pragma GCC unroll 8
  for (size_t b = 0; b < kBits; ++b) {
    eight |= kSpreadBits.values[static_cast<size_t>(codes[b])] << b;
  }
  return eight;
}

// Words of groups of kBits bits.
template <size_t kBits>
HWY_INLINE void StoreGroups(const KltLevelWords& side,
                            const std::byte* codes,
                            size_t num_groups,
                            int16_t* out) {
  if constexpr (kBits > 4) {
    const int16_t* words = side.words + KltLevelsAt(kBits);
    for (size_t group = 0; group < num_groups; ++group, codes += kBits, out += kKltGroup) {
      const uint64_t eight = GroupCodes<kBits>(codes);
#pragma GCC unroll 8
      for (size_t j = 0; j < kKltGroup; ++j) {
        out[j] = words[eight >> 8 * j & 0xff];
      }
    }
  } else {
    const hn::FixedTag<uint64_t, 2> d64;
    const hn::FixedTag<uint8_t, 16> d8;
    const hn::FixedTag<int16_t, 8> d16;
    const auto low_bytes = hn::LoadU(d8, side.low_bytes[kBits - 1]);
    const auto high_bytes = hn::LoadU(d8, side.high_bytes[kBits - 1]);
    for (size_t group = 0; group < num_groups; ++group, codes += kBits, out += kKltGroup) {
      const auto places = hn::BitCast(d8, hn::Set(d64, GroupCodes<kBits>(codes)));
      const auto low = hn::TableLookupBytes(low_bytes, places);
      const auto high = hn::TableLookupBytes(high_bytes, places);
      hn::StoreU(hn::BitCast(d16, hn::InterleaveLower(d8, low, high)), d16, out);
    }
  }
}

void StoreGroupsOf(size_t bits,
                   const KltLevelWords& side,
                   const std::byte* codes,
                   size_t num_groups,
                   int16_t* out) {
  static_assert(kKltMaxBits == 6);
  switch (bits) {
    case 0:
      std::fill_n(out, num_groups * kKltGroup, int16_t{0});
      break;
    case 1:
      StoreGroups<1>(side, codes, num_groups, out);
      break;
    case 2:
      StoreGroups<2>(side, codes, num_groups, out);
      break;
    case 3:
      StoreGroups<3>(side, codes, num_groups, out);
      break;
    case 4:
      StoreGroups<4>(side, codes, num_groups, out);
      break;
    case 5:
      StoreGroups<5>(side, codes, num_groups, out);
      break;
    default:
      StoreGroups<6>(side, codes, num_groups, out);
      break;
  }
}

void StoreLevelWords(const KltLevelWords& side,
                     const std::byte* codes,
                     size_t row_bytes,
                     size_t num_tokens,
                     size_t stride,
                     int16_t* out) {
  for (size_t t = 0; t < num_tokens; ++t, codes += row_bytes, out += stride) {
    const std::byte* code = codes;
    int16_t* word = out;
    for (size_t i = 0; i < side.num_spans; ++i) {
      const KltSpan span = side.spans[i];
      StoreGroupsOf(span.bits, side, code, span.num_groups, word);
      code += span.bits * span.num_groups;
      word += kKltGroup * span.num_groups;
    }
  }
}

void MapKltValuesOnTarget(const KltTables<const float>& tables,
                          size_t head_dim,
                          const float* sums,
                          float* out) {
  alignas(64) float x[kMaxHeadDim];
  std::copy_n(sums, head_dim, x);
  UnrotateRow(x, head_dim);
  for (size_t i = 0; i < head_dim; ++i) {
    out[i] += x[i] * tables.evenness[i];
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(StoreLevelWords);
HWY_EXPORT(MapKltValuesOnTarget);

namespace {

// largest: of the words.
void LoadLevelWords(const KltSide<const float>& side,
                    size_t head_dim,
                    int largest,
                    KltLevelWords* out) {
  out->num_spans = 0;
  size_t most_bits = 0;
  for (size_t group = 0; group < KltDims(head_dim) / kKltGroup; ++group) {
    const auto bits = static_cast<uint8_t>(side.group_bits[group]);
    if (out->num_spans == 0 || out->spans[out->num_spans - 1].bits != bits) {
      out->spans[out->num_spans++] = {.bits = bits, .num_groups = 0};
    }
    ++out->spans[out->num_spans - 1].num_groups;
    most_bits = std::max<size_t>(most_bits, bits);
  }
  const size_t num_levels = KltLevelsAt(most_bits + 1);
  float largest_level = 1e-30F;
  for (size_t i = 0; i < num_levels; ++i) {
    largest_level = std::max(largest_level, std::fabs(side.levels[i]));
  }
  out->step = largest_level / static_cast<float>(largest);
  for (size_t i = 0; i < num_levels; ++i) {
    out->words[i] = static_cast<int16_t>(std::lrint(side.levels[i] / out->step));
  }
  for (size_t bits = 1; bits <= 4; ++bits) {
    for (size_t code = 0; code < size_t{1} << bits; ++code) {
      const auto word = static_cast<uint16_t>(out->words[KltLevelsAt(bits) + code]);
      out->low_bytes[bits - 1][code] = static_cast<uint8_t>(word & 0xff);
      out->high_bytes[bits - 1][code] = static_cast<uint8_t>(word >> 8);
    }
  }
}

KltWords& WordsOf(const WordTables& tables) {
  return *reinterpret_cast<KltWords*>(tables.own);
}

}  // namespace

void LoadKltWords(const KltTables<const float>& tables, size_t head_dim, WordTables* out) {
  KltWords& words = WordsOf(*out);
  words.basis.panels = reinterpret_cast<int32_t*>(out->own + sizeof(KltWords));
  words.coefficients =
      reinterpret_cast<int16_t*>(out->own + sizeof(KltWords) + WordBasisPanelBytes(head_dim));
  LoadLevelWords(tables.keys, head_dim, kMaxCoefficient, &words.keys);
  LoadLevelWords(tables.values, head_dim, kMaxValueWord, &words.values);
  // The last dimensions are those without bits: they are not read.
  KltLevelWords& keys = words.keys;
  size_t num_dims = KltDims(head_dim);
  if (keys.spans[keys.num_spans - 1].bits == 0) {
    num_dims -= kKltGroup * keys.spans[--keys.num_spans].num_groups;
  }
  const float* rows[kMaxWordChannels];
  for (size_t dim = 0; dim < num_dims; ++dim) {
    rows[dim] = tables.inverse + dim * head_dim;
  }
  PackWordBasis(rows,
                num_dims,
                head_dim,
                tables.mean,
                std::sqrt(static_cast<float>(num_dims)),
                &words.basis,
                out->key_steps);
}

void DecodeKltKeyWords(const WordTables& tables,
                       const std::byte* codes,
                       const std::byte* scales,
                       size_t row_bytes,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* words,
                       float* steps) {
  const KltWords& by = WordsOf(tables);
  HWY_DYNAMIC_DISPATCH(StoreLevelWords)
  (by.keys, codes, row_bytes, num_tokens, head_dim, by.coefficients);
  float factors[kWordTokens];
  for (size_t t = 0; t < num_tokens; ++t) {
    factors[t] = KltScale(static_cast<uint8_t>(scales[t])) * by.keys.step;
  }
  MultiplyWordBasis(
      by.basis, head_dim, by.coefficients, head_dim, factors, num_tokens, words, steps);
}

void DecodeKltValueWords(const WordTables& tables,
                         const std::byte* codes,
                         size_t row_bytes,
                         size_t num_tokens,
                         size_t head_dim,
                         int16_t* words) {
  HWY_DYNAMIC_DISPATCH(StoreLevelWords)
  (WordsOf(tables).values, codes, row_bytes, num_tokens, head_dim, words);
}

void LoadKltValueScales(const WordTables& tables,
                        const std::byte* codes,
                        size_t num_tokens,
                        float* scales) {
  for (size_t t = 0; t < num_tokens; ++t) {
    scales[t] = KltScale(static_cast<uint8_t>(codes[t])) * WordsOf(tables).values.step;
  }
}

void MapKltValues(const KltTables<const float>& tables,
                  size_t head_dim,
                  const float* sums,
                  float* out) {
  HWY_DYNAMIC_DISPATCH(MapKltValuesOnTarget)(tables, head_dim, sums, out);
}

}  // namespace varve
#endif  // HWY_ONCE
