#include "kernels/codec/skvq_words.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/skvq_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/level_words.h"
#include "kernels/cpu/readers-inl.h"

#ifndef VARVE_KERNELS_CODEC_SKVQ_WORDS_ONCE_
#define VARVE_KERNELS_CODEC_SKVQ_WORDS_ONCE_
namespace varve {

struct SkvqSideWords {
  GroupedLevels channels;
  float largest_centre;
};

// In memory of WordTables::own.
struct SkvqWords {
  SkvqSideWords keys;
  SkvqSideWords values;
};

static_assert(sizeof(SkvqWords) <= kWordOwnBytes);

// What code 2^bits - 1 is as a level: the largest multiple of the codes' half range in a byte.
constexpr int SkvqLargestLevel(size_t bits) {
  const int largest_code = (1 << bits) - 1;
  return 127 / largest_code * largest_code;
}

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using SkvqGroupTag = hn::FixedTag<float, kSkvqMaxGroups>;

// E4M3 of a token's groups (Fp8Codes) and zeros. The bytes before them are read, too.
HWY_INLINE hn::Vec<SkvqGroupTag> LoadGroups(const std::byte* codes, size_t groups) {
  const size_t others = kSkvqMaxGroups - groups;
  uint32_t bits;
  static_assert(sizeof(bits) == kSkvqMaxGroups);
  std::memcpy(&bits, codes - others, sizeof(bits));
  bits >>= 8 * others;
  return Fp8Codes::Load(SkvqGroupTag(), reinterpret_cast<const std::byte*>(&bits), 0, 0);
}

// tokens may be null.
void LoadSkvqTokens(const SkvqRows& rows,
                    float largest_centre,
                    GroupedToken* tokens,
                    float* steps) {
  const SkvqGroupTag d;
  const hn::Rebind<int16_t, decltype(d)> d16;
  const hn::FixedTag<int16_t, kMaxLevelGroups> d_groups;
  // The largest word of a channel, so that pairs of keys stay within kMaxKeyPair, and scales of
  // values within 16 bits.
  const float largest_word = rows.is_key ? kMaxKeyPair / 1.4143F : 30700.0F;
  const float step_factor = (rows.is_key ? 1.0F : kGroupedValueSteps) / largest_word;
  const float level_factor = 128.0F / SkvqLargestLevel(rows.bits);
  const float centre_factor = largest_centre * (32768.0F / 32767.0F);
  const size_t groups = rows.at.groups;
  alignas(16) float units[2][kSkvqMaxGroups] = {};
  for (size_t i = 0; i < 2 * groups; ++i) {
    uint16_t half;
    std::memcpy(&half, rows.block + i * sizeof(half), sizeof(half));
    units[i / groups][i % groups] = Fp8Codes::Param(half);
  }
  const std::byte* scales = rows.block + rows.at.scales + rows.first_token * groups;
  const std::byte* offsets = rows.block + rows.at.offsets + rows.first_token * groups;
  const auto half_range =
      hn::Mul(hn::Load(d, units[0]), hn::Set(d, ((1U << rows.bits) - 1) / 2.0F));
  const auto offset_units = hn::Load(d, units[1]);
  for (size_t t = 0; t < rows.num_tokens; ++t) {
    const auto half = hn::Mul(LoadGroups(scales + t * groups, groups), half_range);
    const auto middle =
        hn::Add(hn::Mul(LoadGroups(offsets + t * groups, groups), offset_units), half);
    const auto reach = hn::MaxOfLanes(d, hn::Add(hn::Abs(middle), hn::Abs(half)));
    const float largest = std::max(hn::GetLane(reach) + largest_centre, 1e-30F);
    steps[t] = largest * step_factor;
    if (tokens != nullptr) {
      const float inverse = largest_word / largest;
      const auto scale = hn::NearestInt(hn::Mul(half, hn::Set(d, level_factor * inverse)));
      const auto offset = hn::NearestInt(hn::Mul(middle, hn::Set(d, inverse)));
      hn::Store(
          hn::ZeroExtendVector(d_groups, hn::DemoteTo(d16, scale)), d_groups, tokens[t].scales);
      hn::Store(
          hn::ZeroExtendVector(d_groups, hn::DemoteTo(d16, offset)), d_groups, tokens[t].offsets);
      // Damaged units make it no number.
      tokens[t].centre = static_cast<int16_t>(std::min(32767.0F, centre_factor * inverse));
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(LoadSkvqTokens);

namespace {

SkvqWords& WordsOf(const WordTables& tables) {
  return *reinterpret_cast<SkvqWords*>(tables.own);
}

const SkvqSideWords& SideOf(const SkvqRows& rows, const WordTables& tables) {
  return rows.is_key ? WordsOf(tables).keys : WordsOf(tables).values;
}

void LoadSide(size_t bits, const SkvqTables& tables, size_t head_dim, SkvqSideWords* out) {
  const int largest_code = (1 << bits) - 1;
  for (int code = 0; code <= largest_code; ++code) {
    out->channels.levels[code] =
        static_cast<int8_t>(SkvqLargestLevel(bits) / largest_code * (2 * code - largest_code));
  }
  out->largest_centre = 1e-30F;
  for (size_t i = 0; i < head_dim; ++i) {
    const size_t group = SkvqGroupOf(tables, head_dim, i);
    out->channels.group_bytes[2 * i] = static_cast<uint8_t>(2 * group);
    out->channels.group_bytes[2 * i + 1] = static_cast<uint8_t>(2 * group + 1);
    out->largest_centre = std::max(out->largest_centre, std::fabs(tables.centre[i]));
  }
  for (size_t i = 0; i < head_dim; ++i) {
    out->channels.centres[i] =
        static_cast<int16_t>(std::lrint(32767.0F * (tables.centre[i] / out->largest_centre)));
  }
}

}  // namespace

void LoadSkvqWords(size_t bits,
                   const SkvqTables& keys,
                   const SkvqTables& values,
                   size_t head_dim,
                   WordTables* out) {
  std::fill_n(out->key_steps, head_dim, 1.0F);
  LoadSide(bits, keys, head_dim, &WordsOf(*out).keys);
  LoadSide(bits, values, head_dim, &WordsOf(*out).values);
}

void DecodeSkvqWords(const SkvqRows& rows, const WordTables& tables, int16_t* words, float* steps) {
  const SkvqSideWords& side = SideOf(rows, tables);
  GroupedToken tokens[kWordTokens];
  HWY_DYNAMIC_DISPATCH(LoadSkvqTokens)(rows, side.largest_centre, tokens, steps);
  GroupedLevelWords(rows.bits,
                    rows.is_key,
                    rows.block + rows.at.codes + rows.first_token * rows.at.row_bytes,
                    side.channels,
                    tokens,
                    rows.num_tokens,
                    rows.head_dim,
                    words);
}

void LoadSkvqSteps(const SkvqRows& rows, const WordTables& tables, float* steps) {
  HWY_DYNAMIC_DISPATCH(LoadSkvqTokens)(rows, SideOf(rows, tables).largest_centre, nullptr, steps);
}

}  // namespace varve
#endif  // HWY_ONCE
