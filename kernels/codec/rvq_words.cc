#include "kernels/codec/rvq_words.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/rvq_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/cpu/rvq_groups-inl.h"

#ifndef VARVE_KERNELS_CODEC_RVQ_WORDS_ONCE_
#define VARVE_KERNELS_CODEC_RVQ_WORDS_ONCE_
namespace varve {

// A value's word is a quarter of the sum of its codewords.
inline constexpr int kRvqValueSteps = 4;

// In memory of WordTables::own: the codebooks, in steps.
struct RvqWords {
  static constexpr size_t kSideWords = RvqSideFloats({kRvqMaxStages, 8});
  alignas(64) int16_t keys[kSideWords];
  alignas(64) int16_t values[kSideWords];
};

static_assert(sizeof(RvqWords) <= kWordOwnBytes);

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using RvqWordTag = hn::CappedTag<int16_t, kRvqGroup>;

constexpr size_t kRvqLanes = hn::MaxLanes(RvqTag());
constexpr size_t kRvqVectors = kRvqGroup / kRvqLanes;

// What the sums of codewords can reach, channel by channel of a group.
void RvqReach(const RvqFormat& format, const float* codebooks, float* reach) {
  const RvqTag d;
  std::fill_n(reach, kRvqGroup, 0.0F);
  for (size_t stage = 0; stage < format.stages; ++stage) {
    hn::Vec<RvqTag> largest[kRvqVectors];
    std::fill_n(largest, kRvqVectors, hn::Zero(d));
    for (size_t entry = 0; entry < RvqEntries(format); ++entry, codebooks += kRvqGroup) {
#pragma GCC unroll 8
      for (size_t v = 0; v < kRvqVectors; ++v) {
        largest[v] = hn::Max(largest[v], hn::Abs(hn::LoadU(d, codebooks + v * kRvqLanes)));
      }
    }
    for (size_t v = 0; v < kRvqVectors; ++v) {
      float* sum = reach + v * kRvqLanes;
      hn::StoreU(hn::Add(hn::LoadU(d, sum), largest[v]), d, sum);
    }
  }
}

// inverse_steps: of the channels of a group.
void RoundRvqCodebooks(const float* codebooks,
                       size_t count,
                       const float* inverse_steps,
                       int16_t* words) {
  const RvqTag d;
  const hn::Rebind<int16_t, RvqTag> d16;
  for (size_t at = 0; at < count; at += kRvqGroup) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kRvqGroup; i += kRvqLanes) {
      const auto word = hn::NearestInt(
          hn::Mul(hn::LoadU(d, codebooks + at + i), hn::LoadU(d, inverse_steps + i)));
      hn::StoreU(hn::DemoteTo(d16, word), d16, words + at + i);
    }
  }
}

template <size_t kStages>
HWY_INLINE void SumRvqWords(const int16_t* codebooks, const std::byte* group, int16_t* out) {
  const RvqWordTag d;
  constexpr size_t kCodebook = RvqEntries({kStages, 8}) * kRvqGroup;
  uint32_t indices[kStages];
  LoadRvqIndices<kStages, 8>(group, indices);
  for (size_t i = 0; i < kRvqGroup; i += hn::Lanes(d)) {
    auto sum = hn::Load(d, codebooks + indices[0] * kRvqGroup + i);
#pragma GCC unroll 8
    for (size_t s = 1; s < kStages; ++s) {
      sum = hn::Add(sum, hn::Load(d, codebooks + s * kCodebook + indices[s] * kRvqGroup + i));
    }
    hn::Store(sum, d, out + i);
  }
}

template <size_t kStages>
void DecodeRvqWordsOf(bool is_key,
                      const int16_t* codebooks,
                      const std::byte* codes,
                      size_t num_tokens,
                      size_t head_dim,
                      int16_t* words) {
  const RvqWordTag d;
  alignas(64) int16_t row[kMaxHeadDim];
  for (size_t t = 0; t < num_tokens; ++t, words += head_dim) {
    for (size_t i = 0; i < head_dim; i += kRvqGroup, codes += kStages) {
      SumRvqWords<kStages>(codebooks, codes, row + i);
    }
    if (is_key) {
      InterleaveRvqGroups(row, RvqGroups(head_dim), kRvqGroup, words);
      continue;
    }
    const auto factor = hn::Set(d, (1 << 15) / kRvqValueSteps);
    for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
      hn::StoreU(hn::MulFixedPoint15(hn::Load(d, row + i), factor), d, words + i);
    }
  }
}

void DecodeRvqWords(const RvqFormat& format,
                    bool is_key,
                    const int16_t* codebooks,
                    const std::byte* codes,
                    size_t num_tokens,
                    size_t head_dim,
                    int16_t* words) {
  const auto decode = format.stages == 8 ? DecodeRvqWordsOf<8> : DecodeRvqWordsOf<4>;
  decode(is_key, codebooks, codes, num_tokens, head_dim, words);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(RvqReach);
HWY_EXPORT(RoundRvqCodebooks);
HWY_EXPORT(DecodeRvqWords);

namespace {

RvqWords& WordsOf(const WordTables& tables) {
  return *reinterpret_cast<RvqWords*>(tables.own);
}

}  // namespace

void LoadRvqWords(const RvqFormat& format,
                  const float* codebooks,
                  size_t head_dim,
                  WordTables* out) {
  constexpr size_t kHalf = kRvqGroup / 2;
  const size_t side_floats = RvqSideFloats(format);
  const size_t num_groups = RvqGroups(head_dim);
  float reach[kRvqGroup];
  float inverse_steps[kRvqGroup];
  HWY_DYNAMIC_DISPATCH(RvqReach)(format, codebooks, reach);
  for (size_t i = 0; i < kRvqGroup; ++i) {
    // The channels of a rotary pair are half a group apart.
    const float pair = std::hypot(reach[i % kHalf], reach[i % kHalf + kHalf]);
    const float step = std::max(pair, 1e-30F) / kMaxKeyPair;
    inverse_steps[i] = 1.0F / step;
    for (size_t group = 0; group < num_groups; ++group) {
      out->key_steps[RvqChannel(true, num_groups, group, i)] = step;
    }
  }
  HWY_DYNAMIC_DISPATCH(RoundRvqCodebooks)
  (codebooks, side_floats, inverse_steps, WordsOf(*out).keys);
  HWY_DYNAMIC_DISPATCH(RvqReach)(format, codebooks + side_floats, reach);
  const float largest = *std::max_element(reach, reach + kRvqGroup);
  const float value_step = std::max(largest, 1e-30F) / kMaxKeyPair;
  std::fill_n(inverse_steps, kRvqGroup, 1.0F / value_step);
  out->value_step = kRvqValueSteps * value_step;
  HWY_DYNAMIC_DISPATCH(RoundRvqCodebooks)
  (codebooks + side_floats, side_floats, inverse_steps, WordsOf(*out).values);
}

void DecodeRvqKeyWords(const RvqFormat& format,
                       const WordTables& tables,
                       const std::byte* codes,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* words) {
  HWY_DYNAMIC_DISPATCH(DecodeRvqWords)
  (format, true, WordsOf(tables).keys, codes, num_tokens, head_dim, words);
}

void DecodeRvqValueWords(const RvqFormat& format,
                         const WordTables& tables,
                         const std::byte* codes,
                         size_t num_tokens,
                         size_t head_dim,
                         int16_t* words) {
  HWY_DYNAMIC_DISPATCH(DecodeRvqWords)
  (format, false, WordsOf(tables).values, codes, num_tokens, head_dim, words);
}

}  // namespace varve
#endif  // HWY_ONCE
