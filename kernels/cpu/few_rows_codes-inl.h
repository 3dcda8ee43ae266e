// The register tiles of attention of few rows in integer arithmetic, per target: 8-bit codes of
// keys and values (code_readers-inl.h) times 16-bit queries and weights, in 32-bit sums.
//
// Codes are exact. Queries and weights are rounded to 32767ths of the largest of their row, which
// changes a score by at most 2^-16 * max|q| * sum|k|, and an output by at most 2^-16 of the largest
// weight times the sum of the tile's values. No sum overflows: 32767 * 255 * 256 dimensions (or
// kTileTokens) is less than 2^31. What the bias of the codes adds to a sum is known before: sums
// start at minus that.
#if defined(VARVE_KERNELS_CPU_FEW_ROWS_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_FEW_ROWS_CODES_INL_H_
#undef VARVE_KERNELS_CPU_FEW_ROWS_CODES_INL_H_
#else
#define VARVE_KERNELS_CPU_FEW_ROWS_CODES_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/code_readers-inl.h"
#include "kernels/cpu/few_rows-inl.h"
#include "kernels/cpu/few_scratch-inl.h"
#include "kernels/cpu/pair_dot-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

static_assert(size_t{32767} * 255 * kMaxHeadDim < size_t{1} << 31);
static_assert(kTileTokens <= kMaxHeadDim);

using SumTag = hn::Repartition<int32_t, WordTag>;
using SumFloatTag = hn::RebindToFloat<SumTag>;
using SumVec = hn::Vec<SumTag>;
inline constexpr size_t kWordLanes = hn::MaxLanes(WordTag());
inline constexpr size_t kSumLanes = hn::MaxLanes(SumTag());

// Minus what the bias of the codes adds to the products with these.
inline int32_t MinusBias(const int16_t* codes, size_t count) {
  int32_t sum = 0;
  for (size_t i = 0; i < count; ++i) {
    sum += codes[i];
  }
  return -kCodeBias * sum;
}

// A query as integers in the order of the reader's codes; returns what one of them is worth.
template <class Reader>
float QuantizeQuery(const Reader& reader, const float* q, size_t head_dim, int16_t* out) {
  constexpr size_t kHalfCodes = 8;
  float ordered[kMaxHeadDim];
  size_t at = 0;
  for (size_t chunk = 0; chunk * Reader::kChunkDims < head_dim; ++chunk) {
    for (size_t sub = 0; sub < Reader::kSubs; ++sub) {
      for (size_t i = 0; i < 4; ++i, at += kHalfCodes) {
        const size_t lane = kBlocks == 2 ? i % 2 : i / 2;
        const size_t half = kBlocks == 2 ? i / 2 : i % 2;
        std::copy_n(q + Reader::Place(chunk, sub, lane, half), kHalfCodes, ordered + at);
      }
    }
  }
  return QuantizeToPairs(ordered, head_dim, kMaxPairCode, out) * reader.step();
}

// One vector of each key's words.
template <bool kVnni, size_t kRows, size_t kTokens>
HWY_INLINE void ScoreWords(const WordVec (&words)[kTokens],
                           const int16_t* HWY_RESTRICT q,
                           size_t head_dim,
                           SumVec (&sum)[kRows][kTokens]) {
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      sum[row][t] = AddPairProductsFrom<kVnni>(sum[row][t], words[t], q + row * head_dim);
    }
  }
}

// Lane kLane of part kSub of a chunk, and what is behind it.
template <bool kVnni, size_t kSub, size_t kLane, size_t kRows, size_t kTokens, class Reader>
HWY_INLINE void ScoreParts(const Reader& reader,
                           size_t token,
                           size_t chunk,
                           const int16_t* HWY_RESTRICT q,
                           size_t head_dim,
                           SumVec (&sum)[kRows][kTokens]) {
  WordVec lower[kTokens];
  WordVec upper[kTokens];
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    const ByteVec key = reader.template Key<kSub, kLane>(token + t, chunk);
    lower[t] = LowerWords(key);
    upper[t] = UpperWords(key);
  }
  ScoreWords<kVnni>(lower, q, head_dim, sum);
  ScoreWords<kVnni>(upper, q + kWordLanes, head_dim, sum);
  if constexpr (kLane + 1 < kLaneVectors) {
    ScoreParts<kVnni, kSub, kLane + 1>(reader, token, chunk, q + 2 * kWordLanes, head_dim, sum);
  } else if constexpr (kSub + 1 < Reader::kSubs) {
    ScoreParts<kVnni, kSub + 1, 0>(reader, token, chunk, q + 2 * kWordLanes, head_dim, sum);
  }
}

// Scores of kRows queries with kTokens keys, in units of the queries' factors. minus_bias: of each
// query.
template <bool kVnni, size_t kRows, size_t kTokens, class Reader>
HWY_INLINE void ScoreCodes(const Reader& reader,
                           size_t token,
                           const int16_t* HWY_RESTRICT q,
                           const int32_t* HWY_RESTRICT minus_bias,
                           size_t head_dim,
                           float* HWY_RESTRICT scores) {
  SumVec sum[kRows][kTokens];
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    alignas(32) static constexpr int32_t kFirstLane[8] = {-1};
    const SumVec start =
        hn::And(hn::Set(SumTag(), minus_bias[row]), hn::Load(SumTag(), kFirstLane));
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      sum[row][t] = start;
    }
  }
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    reader.PrefetchValue(token + t);
  }
  for (size_t chunk = 0; chunk * Reader::kChunkDims < head_dim; ++chunk) {
    ScoreParts<kVnni, 0, 0>(reader, token, chunk, q + chunk * Reader::kChunkDims, head_dim, sum);
  }
  StoreSums<kRows, kTokens>(SumTag(), sum, scores);
}

// As ScoreRows (few_rows-inl.h), of codes. q: [kRows, head_dim], of QuantizeQuery.
template <bool kVnni, size_t kRows, class Reader>
HWY_NOINLINE void ScoreCodeRows(const Reader& reader,
                                size_t token,
                                size_t begin,
                                size_t end,
                                const int16_t* q,
                                const int32_t* minus_bias,
                                size_t head_dim,
                                float* scores) {
  constexpr size_t kTokens = kRows == 1 ? 8 : (kRows == 4 ? 2 : 4);
  size_t t = begin;
  for (; t + kTokens <= end; t += kTokens) {
    ScoreCodes<kVnni, kRows, kTokens>(reader, token + t, q, minus_bias, head_dim, scores + t);
  }
  for (; t < end; ++t) {
    ScoreCodes<kVnni, kRows, 1>(reader, token + t, q, minus_bias, head_dim, scores + t);
  }
}

// Adds what the numbers of two tokens, alternating in `lower` and `upper`, weigh with the pairs of
// weights at `weights`.
template <bool kVnni, size_t kRows>
HWY_INLINE void AddPair(WordVec lower,
                        WordVec upper,
                        const int16_t* HWY_RESTRICT weights,
                        SumVec (&sum)[kRows][2]) {
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    int32_t both;
    std::memcpy(&both, weights + row * kWeightStride, sizeof(both));
    const WordVec weight = hn::BitCast(WordTag(), hn::Set(SumTag(), both));
    sum[row][0] = AddPairProducts<kVnni>(sum[row][0], weight, lower);
    sum[row][1] = AddPairProducts<kVnni>(sum[row][1], weight, upper);
  }
}

// What the weights of rows are worth and add up to, and what becomes of the sums so far.
struct CodeWeights {
  const int16_t* weights;     // [kRows, kWeightStride] from the first token on, zero behind it
  const int32_t* minus_bias;  // [kRows]
  const float* factors;       // [kRows]
  const float* corrections;   // [kRows]
};

// out = out * correction + added, block by block of four: block `block` is at place(block).
template <class V, class Place>
HWY_INLINE void StoreBlocks(V added, float correction, const Place& place) {
  const FourTag four;
  const auto store = [&](auto block, float* out) HWY_ATTR {
    hn::StoreU(hn::MulAdd(hn::Set(four, correction), hn::LoadU(four, out), block), four, out);
  };
  if constexpr (sizeof(V) == kBlockBytes) {
    store(added, place(0));
  } else {
    store(hn::LowerHalf(four, added), place(0));
    store(hn::UpperHalf(four, added), place(1));
  }
}

// o[row, dims] = o * corrections[row] + factors[row] * sum over tokens of weight * code, for half
// kHalf of lane kLane of part kSub.
template <bool kVnni, size_t kSub, size_t kLane, size_t kHalf, size_t kRows, class Reader>
HWY_INLINE void AddCodeHalf(const Reader& reader,
                            size_t token,
                            size_t num_tokens,
                            size_t chunk,
                            const CodeWeights& by,
                            float* HWY_RESTRICT o,
                            size_t o_stride) {
  SumVec sum[kRows][2];
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    sum[row][0] = sum[row][1] = hn::Set(SumTag(), by.minus_bias[row]);
  }
  size_t t = 0;
  for (; t + 2 <= num_tokens; t += 2) {
    const ByteVec pairs =
        reader.template ValuePairs<kSub, kLane, kHalf>(token + t, token + t + 1, chunk);
    AddPair<kVnni>(LowerWords(pairs), UpperWords(pairs), by.weights + t, sum);
  }
  if (t < num_tokens) {
    const ByteVec pairs =
        reader.template ValuePairs<kSub, kLane, kHalf>(token + t, token + t, chunk);
    AddPair<kVnni>(LowerWords(pairs), UpperWords(pairs), by.weights + t, sum);
  }
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    const auto added = [&](size_t v) HWY_ATTR {
      return hn::Mul(hn::Set(SumFloatTag(), by.factors[row]),
                     hn::ConvertTo(SumFloatTag(), sum[row][v]));
    };
    float* out = o + row * o_stride;
    StoreBlocks(added(0), by.corrections[row], [&](size_t block) {
      return out + Reader::Place(chunk, kSub, kLane + block, kHalf);
    });
    StoreBlocks(added(1), by.corrections[row], [&](size_t block) {
      return out + Reader::Place(chunk, kSub, kLane + block, kHalf) + 4;
    });
  }
}

// Half kHalf of lane kLane of part kSub of a chunk, and what is behind it.
template <bool kVnni, size_t kSub, size_t kLane, size_t kHalf, size_t kRows, class Reader>
HWY_INLINE void AddCodeParts(const Reader& reader,
                             size_t token,
                             size_t num_tokens,
                             size_t chunk,
                             const CodeWeights& by,
                             float* o,
                             size_t o_stride) {
  AddCodeHalf<kVnni, kSub, kLane, kHalf, kRows>(reader, token, num_tokens, chunk, by, o, o_stride);
  if constexpr (kLane + 1 < kLaneVectors) {
    AddCodeParts<kVnni, kSub, kLane + 1, kHalf, kRows>(
        reader, token, num_tokens, chunk, by, o, o_stride);
  } else if constexpr (kSub + 1 < Reader::kSubs) {
    AddCodeParts<kVnni, kSub + 1, 0, kHalf, kRows>(
        reader, token, num_tokens, chunk, by, o, o_stride);
  }
}

// As AddRows (few_rows-inl.h), of codes, for dimensions [first_dim, last_dim): whole halves of
// chunks.
template <bool kVnni, size_t kRows, class Rows>
HWY_NOINLINE void AddCodeRows(const Rows& rows,
                              size_t token,
                              size_t num_tokens,
                              size_t first_dim,
                              size_t last_dim,
                              const CodeWeights& by,
                              float* o,
                              size_t o_stride) {
  const auto is_wanted = [&](size_t dim) { return dim >= first_dim && dim < last_dim; };
  for (size_t chunk = 0; chunk * Rows::kChunkDims < last_dim; ++chunk) {
    if (is_wanted(Rows::Place(chunk, 0, 0, 0))) {
      AddCodeParts<kVnni, 0, 0, 0, kRows>(rows, token, num_tokens, chunk, by, o, o_stride);
    }
    if (is_wanted(Rows::Place(chunk, 0, 0, 1))) {
      AddCodeParts<kVnni, 0, 0, 1, kRows>(rows, token, num_tokens, chunk, by, o, o_stride);
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
