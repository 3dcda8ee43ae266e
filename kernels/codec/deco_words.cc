#include "kernels/codec/deco_words.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/deco_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/codec/word_decoder.h"
#include "kernels/cpu/pair_dot-inl.h"
#include "kernels/cpu/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kDecoSmallSize = kDecoMaxBlocks * kDecoMaxBlocks;
inline constexpr float kDecoMaxLevel = 15.0F;

// What all keys of a block share.
struct DecoKeys {
  float means[kMaxWordChannels];
  float sums[kMaxWordChannels];   // of the channel's row of the small factor
  int16_t small[kDecoSmallSize];  // of which one is worth `unit`
  float unit;
  float largest_mean;
  float largest_sum;  // of the magnitudes of a row of the small factor
};

inline void LoadDecoKeys(const DecoLayout& at,
                         size_t head_dim,
                         const std::byte* encoded,
                         DecoKeys* out) {
  float small[kDecoSmallSize] = {};
  WidenRow<DType::kF16>(encoded, head_dim, out->means);
  WidenRow<DType::kF16>(encoded + at.small, at.blocks * at.blocks, small);
  // A small factor of one entry is the first of a pair.
  const size_t size = std::max<size_t>(at.blocks * at.blocks, 2);
  out->unit = QuantizeToPairs(small, size, kMaxPairCode, out->small);
  out->largest_mean = 1e-30F;
  for (size_t i = 0; i < head_dim; ++i) {
    out->largest_mean = std::max(out->largest_mean, std::fabs(out->means[i]));
  }
  out->largest_sum = 0.0F;
  for (size_t a = 0; a < at.blocks; ++a) {
    float sum = 0.0F;
    float magnitudes = 0.0F;
    for (size_t r = 0; r < at.blocks; ++r) {
      sum += small[a * at.blocks + r];
      magnitudes += std::fabs(small[a * at.blocks + r]);
    }
    std::fill_n(out->sums + a * at.columns, at.columns, sum);
    out->largest_sum = std::max(out->largest_sum, magnitudes);
  }
}

// A key's levels, and what they, the rows' sums and the means are worth in its steps.
struct DecoKey {
  const int16_t* levels;
  float scale;
  float offset;
  float mean;
};

// Lanes(d) columns at a time. kPairs: of rows of the large factor.
template <bool kVnni, size_t kPairs, class D>
HWY_INLINE void MultiplyDecoKey(D d,
                                const DecoLayout& at,
                                const DecoKeys& keys,
                                const DecoKey& key,
                                int16_t* out) {
  const hn::RebindToSigned<D> d32;
  const hn::Repartition<int16_t, D> d_pairs;
  const hn::Rebind<int16_t, D> d16;
  const hn::Rebind<uint16_t, D> du16;
  // One block has no second row: its factor is zero.
  const size_t to_second = at.blocks == 1 ? 0 : at.columns;
  for (size_t b = 0; b < at.columns; b += hn::Lanes(d)) {
    hn::Vec<decltype(d_pairs)> pairs[kPairs];
#pragma GCC unroll 8
    for (size_t p = 0; p < kPairs; ++p) {
      const int16_t* levels = key.levels + 2 * p * at.columns + b;
      const auto first = hn::PromoteTo(d32, hn::BitCast(du16, hn::LoadU(d16, levels)));
      const auto second = hn::PromoteTo(d32, hn::LoadU(d16, levels + to_second));
      pairs[p] = hn::BitCast(d_pairs, hn::Or(first, hn::ShiftLeft<16>(second)));
    }
    for (size_t a = 0; a < at.blocks; ++a) {
      auto sum = hn::Zero(d32);
#pragma GCC unroll 8
      for (size_t p = 0; p < kPairs; ++p) {
        int32_t small;
        std::memcpy(&small, keys.small + 2 * (a * kPairs + p), sizeof(small));
        sum = AddPairProducts<kVnni>(sum, pairs[p], hn::BitCast(d_pairs, hn::Set(d32, small)));
      }
      const size_t i = a * at.columns + b;
      const auto mean = hn::Mul(hn::LoadU(d, keys.means + i), hn::Set(d, key.mean));
      const auto base = hn::MulAdd(hn::LoadU(d, keys.sums + i), hn::Set(d, key.offset), mean);
      const auto word = hn::MulAdd(hn::ConvertTo(d, sum), hn::Set(d, key.scale), base);
      hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(word)), d16, out + i);
    }
  }
}

template <bool kVnni, size_t kPairs>
void MultiplyDecoPairs(const DecoLayout& at,
                       size_t head_dim,
                       const std::byte* encoded,
                       const DecoLevels& large,
                       size_t num_tokens,
                       int16_t* words,
                       float* steps) {
  const hn::CappedTag<float, 8> d;
  DecoKeys keys;
  LoadDecoKeys(at, head_dim, encoded, &keys);
  for (size_t t = 0; t < num_tokens; ++t) {
    const float level = std::fabs(large.offsets[t]) + kDecoMaxLevel * large.scales[t];
    // No channel of the token is larger, and no pair than its square root of two.
    const float largest = keys.largest_mean + level * keys.largest_sum;
    steps[t] = largest * 1.4143F / kMaxKeyPair;
    const DecoKey key{large.words + t * head_dim,
                      large.scales[t] * keys.unit / steps[t],
                      large.offsets[t] / steps[t],
                      1.0F / steps[t]};
    if (at.columns % hn::Lanes(d) == 0) {
      MultiplyDecoKey<kVnni, kPairs>(d, at, keys, key, words + t * head_dim);
    } else {
      MultiplyDecoKey<kVnni, kPairs>(
          hn::CappedTag<float, 4>(), at, keys, key, words + t * head_dim);
    }
  }
}

template <bool kVnni>
void MultiplyDecoWordsWith(const DecoLayout& at,
                           size_t head_dim,
                           const std::byte* encoded,
                           const DecoLevels& large,
                           size_t num_tokens,
                           int16_t* words,
                           float* steps) {
  const auto multiply = at.blocks == 16  ? MultiplyDecoPairs<kVnni, 8>
                        : at.blocks == 8 ? MultiplyDecoPairs<kVnni, 4>
                        : at.blocks == 4 ? MultiplyDecoPairs<kVnni, 2>
                                         : MultiplyDecoPairs<kVnni, 1>;
  multiply(at, head_dim, encoded, large, num_tokens, words, steps);
}

void MultiplyDecoWordsOnTarget(const DecoLayout& at,
                               size_t head_dim,
                               const std::byte* encoded,
                               const DecoLevels& large,
                               size_t num_tokens,
                               int16_t* words,
                               float* steps) {
  if constexpr (HWY_TARGET == HWY_AVX3) {
    if (HasVnni()) {
      MultiplyDecoWordsWith<true>(at, head_dim, encoded, large, num_tokens, words, steps);
      return;
    }
  }
  MultiplyDecoWordsWith<false>(at, head_dim, encoded, large, num_tokens, words, steps);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MultiplyDecoWordsOnTarget);

void MultiplyDecoWords(const DecoLayout& at,
                       size_t head_dim,
                       const std::byte* encoded,
                       const DecoLevels& large,
                       size_t num_tokens,
                       int16_t* words,
                       float* steps) {
  HWY_DYNAMIC_DISPATCH(MultiplyDecoWordsOnTarget)
  (at, head_dim, encoded, large, num_tokens, words, steps);
}

}  // namespace varve
#endif  // HWY_ONCE
