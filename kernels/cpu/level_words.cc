#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/level_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include "kernels/cpu/level_words.h"
#include "kernels/cpu/packed_parts-inl.h"
#include "kernels/dense.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Calls body(level * 256 of consecutive dimensions as words, first of the dimensions) for the words
// of part kSub, lane kLane of a chunk and of those behind it. levels: one for each lane of a block.
template <size_t kBits, size_t kSub, size_t kLane, class Body>
HWY_INLINE void ForLevelWords(const std::byte* row,
                              ByteVec levels,
                              size_t chunk,
                              size_t head_dim,
                              const Body& body) {
  using Parts = PackedParts<kBits>;
  const auto codes = Parts::template Row<kSub, kLane>(row, chunk, head_dim);
  const auto bytes = hn::TableLookupBytes(levels, codes);
  const auto none = hn::Zero(ByteTag());
  body(hn::BitCast(WordTag(), hn::InterleaveLower(ByteTag(), none, bytes)),
       Parts::Place(chunk, kSub, kLane, 0));
  body(hn::BitCast(WordTag(), hn::InterleaveUpper(ByteTag(), none, bytes)),
       Parts::Place(chunk, kSub, kLane, 1));
  if constexpr (kLane + 1 < kLaneVectors) {
    ForLevelWords<kBits, kSub, kLane + 1>(row, levels, chunk, head_dim, body);
  } else if constexpr (kSub + 1 < Parts::kSubs) {
    ForLevelWords<kBits, kSub + 1, 0>(row, levels, chunk, head_dim, body);
  }
}

template <size_t kBits, class Body>
HWY_INLINE void ForRowWords(const std::byte* row,
                            ByteVec levels,
                            size_t head_dim,
                            const Body& body) {
  for (size_t chunk = 0; chunk * PackedParts<kBits>::kChunkDims < head_dim; ++chunk) {
    ForLevelWords<kBits, 0, 0>(row, levels, chunk, head_dim, body);
  }
}

HWY_INLINE ByteVec LoadLevels(const int8_t* levels) {
  return hn::LoadDup128(ByteTag(), reinterpret_cast<const uint8_t*>(levels));
}

template <size_t kBits>
void KeyLevelWordsOf(const std::byte* codes,
                     const WordTables& tables,
                     size_t num_tokens,
                     size_t head_dim,
                     int16_t* out) {
  const WordTag d;
  const auto levels = LoadLevels(tables.key_levels);
  for (size_t t = 0; t < num_tokens; ++t, out += head_dim) {
    ForRowWords<kBits>(codes + t * PackedBytes(kBits, head_dim),
                       levels,
                       head_dim,
                       [&](WordVec words, size_t dim) HWY_ATTR {
                         const auto scale = hn::LoadU(d, tables.key_scales + dim);
                         const auto offset = hn::LoadU(d, tables.key_offsets + dim);
                         hn::StoreU(
                             hn::Add(hn::MulFixedPoint15(words, scale), offset), d, out + dim);
                       });
  }
}

template <size_t kBits>
void ValueLevelWordsOf(const std::byte* codes,
                       const WordTables& tables,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* out) {
  const auto levels = LoadLevels(tables.value_levels);
  for (size_t t = 0; t < num_tokens; ++t, out += head_dim) {
    ForRowWords<kBits>(codes + t * PackedBytes(kBits, head_dim),
                       levels,
                       head_dim,
                       [&](WordVec words, size_t dim) HWY_ATTR {
                         hn::StoreU(hn::ShiftRight<8>(words), WordTag(), out + dim);
                       });
  }
}

template <size_t kBits, bool kIsKey>
void GroupedLevelWordsOf(const std::byte* codes,
                         const GroupedLevels& channels,
                         const GroupedToken* tokens,
                         size_t num_tokens,
                         size_t head_dim,
                         int16_t* out) {
  const WordTag d;
  const auto levels = LoadLevels(channels.levels);
  for (size_t t = 0; t < num_tokens; ++t, out += head_dim) {
    const auto scales = hn::LoadDup128(d, tokens[t].scales);
    const auto offsets = hn::LoadDup128(d, tokens[t].offsets);
    const auto factor = hn::Set(d, tokens[t].centre);
    ForRowWords<kBits>(
        codes + t * PackedBytes(kBits, head_dim),
        levels,
        head_dim,
        [&](WordVec level, size_t dim) HWY_ATTR {
          const auto group = hn::BitCast(d, hn::LoadU(ByteTag(), channels.group_bytes + 2 * dim));
          const auto centre = hn::MulFixedPoint15(hn::LoadU(d, channels.centres + dim), factor);
          const auto step = hn::MulFixedPoint15(level, hn::TableLookupBytes(scales, group));
          const auto offset = hn::Add(hn::TableLookupBytes(offsets, group), centre);
          auto word = hn::Add(step, offset);
          if constexpr (!kIsKey) {
            word = hn::MulFixedPoint15(word, hn::Set(d, (1 << 15) / kGroupedValueSteps));
          }
          hn::StoreU(word, d, out + dim);
        });
  }
}

void KeyLevelWordsOnTarget(size_t bits,
                           const std::byte* codes,
                           const WordTables& tables,
                           size_t num_tokens,
                           size_t head_dim,
                           int16_t* out) {
  const auto decode = bits == 4   ? KeyLevelWordsOf<4>
                      : bits == 3 ? KeyLevelWordsOf<3>
                                  : KeyLevelWordsOf<2>;
  decode(codes, tables, num_tokens, head_dim, out);
}

void ValueLevelWordsOnTarget(size_t bits,
                             const std::byte* codes,
                             const WordTables& tables,
                             size_t num_tokens,
                             size_t head_dim,
                             int16_t* out) {
  const auto decode = bits == 4   ? ValueLevelWordsOf<4>
                      : bits == 3 ? ValueLevelWordsOf<3>
                                  : ValueLevelWordsOf<2>;
  decode(codes, tables, num_tokens, head_dim, out);
}

void GroupedLevelWordsOnTarget(size_t bits,
                               bool is_key,
                               const std::byte* codes,
                               const GroupedLevels& channels,
                               const GroupedToken* tokens,
                               size_t num_tokens,
                               size_t head_dim,
                               int16_t* out) {
  const auto decode = bits == 4
                          ? (is_key ? GroupedLevelWordsOf<4, true> : GroupedLevelWordsOf<4, false>)
                          : (is_key ? GroupedLevelWordsOf<2, true> : GroupedLevelWordsOf<2, false>);
  decode(codes, channels, tokens, num_tokens, head_dim, out);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(KeyLevelWordsOnTarget);
HWY_EXPORT(ValueLevelWordsOnTarget);
HWY_EXPORT(GroupedLevelWordsOnTarget);

void KeyLevelWords(size_t bits,
                   const std::byte* codes,
                   const WordTables& tables,
                   size_t num_tokens,
                   size_t head_dim,
                   int16_t* out) {
  HWY_DYNAMIC_DISPATCH(KeyLevelWordsOnTarget)(bits, codes, tables, num_tokens, head_dim, out);
}

void ValueLevelWords(size_t bits,
                     const std::byte* codes,
                     const WordTables& tables,
                     size_t num_tokens,
                     size_t head_dim,
                     int16_t* out) {
  HWY_DYNAMIC_DISPATCH(ValueLevelWordsOnTarget)(bits, codes, tables, num_tokens, head_dim, out);
}

void LoadStepLevels(WordTables* tables) {
  for (int code = 0; code < 16; ++code) {
    tables->value_levels[code] = static_cast<int8_t>(2 * code - 15);
  }
}

void LoadStepParams(const std::byte* scales,
                    const std::byte* offsets,
                    size_t num_tokens,
                    float* level_scales,
                    float* level_offsets) {
  Widen(scales, DType::kF16, num_tokens, level_scales);
  Widen(offsets, DType::kF16, num_tokens, level_offsets);
  for (size_t t = 0; t < num_tokens; ++t) {
    level_offsets[t] += 7.5F * level_scales[t];
    level_scales[t] *= 0.5F;
  }
}

void GroupedLevelWords(size_t bits,
                       bool is_key,
                       const std::byte* codes,
                       const GroupedLevels& channels,
                       const GroupedToken* tokens,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* out) {
  HWY_DYNAMIC_DISPATCH(GroupedLevelWordsOnTarget)
  (bits, is_key, codes, channels, tokens, num_tokens, head_dim, out);
}

}  // namespace varve
#endif  // HWY_ONCE
