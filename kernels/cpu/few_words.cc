#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/few_words.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include "kernels/cpu/few_rows_codes-inl.h"
#include "kernels/cpu/few_scratch-inl.h"
#include "kernels/cpu/few_words.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Both words of a pair are at most 32767 in all directions: eight products for each lane.
constexpr size_t kSumVectors = 2;
static_assert(size_t{4} * kSumVectors * 32767 * 8191 < size_t{1} << 31);

template <bool kVnni, size_t kRows, size_t kTokens>
HWY_INLINE void ScoreWordTokens(const WordScores& by,
                                size_t token,
                                const int16_t* HWY_RESTRICT q,
                                float* HWY_RESTRICT scores) {
  const WordTag d;
  const SumFloatTag d_float;
  const size_t half = by.head_dim / 2;
  hn::Vec<SumFloatTag> total[kRows][kTokens];
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      total[row][t] = hn::Zero(d_float);
    }
  }
  for (size_t i = 0; i < half; i += kSumVectors * kWordLanes) {
    SumVec sum[kRows][kTokens];
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (size_t t = 0; t < kTokens; ++t) {
        sum[row][t] = hn::Zero(SumTag());
      }
    }
#pragma GCC unroll 2
    for (size_t j = i; j < i + kSumVectors * kWordLanes; j += kWordLanes) {
#pragma GCC unroll 8
      for (size_t t = 0; t < kTokens; ++t) {
        const int16_t* key = by.keys + (token + t) * by.head_dim + j;
        const int16_t* turn = by.turns + (token + t) * by.turn_stride + j;
        const WordVec first = hn::LoadU(d, key);
        const WordVec second = hn::LoadU(d, key + half);
        const WordVec cos = hn::LoadU(d, turn);
        const WordVec sin = hn::LoadU(d, turn + half);
        const WordVec turned_first =
            hn::Sub(hn::MulFixedPoint15(first, cos), hn::MulFixedPoint15(second, sin));
        const WordVec turned_second =
            hn::Add(hn::MulFixedPoint15(second, cos), hn::MulFixedPoint15(first, sin));
#pragma GCC unroll 4
        for (size_t row = 0; row < kRows; ++row) {
          const int16_t* query = q + row * by.head_dim + j;
          sum[row][t] = AddPairProductsFrom<kVnni>(sum[row][t], turned_first, query);
          sum[row][t] = AddPairProductsFrom<kVnni>(sum[row][t], turned_second, query + half);
        }
      }
    }
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (size_t t = 0; t < kTokens; ++t) {
        total[row][t] = hn::Add(total[row][t], hn::ConvertTo(d_float, sum[row][t]));
      }
    }
  }
  StoreSums<kRows, kTokens>(d_float, total, scores + token);
}

template <bool kVnni>
void ScoreKeyWordsWith(const WordScores& by) {
  ForRows(by.num_rows, [&](size_t row, auto count) HWY_ATTR {
    constexpr size_t kRows = decltype(count)::value;
    constexpr size_t kTokens = kRows == 1 ? 8 : (kRows == 4 ? 2 : 4);
    const int16_t* q = by.q + row * by.head_dim;
    float* scores = by.scores + row * kTileTokens;
    size_t t = 0;
    for (; t + kTokens <= by.num_tokens; t += kTokens) {
      ScoreWordTokens<kVnni, kRows, kTokens>(by, t, q, scores);
    }
    for (; t < by.num_tokens; ++t) {
      ScoreWordTokens<kVnni, kRows, 1>(by, t, q, scores);
    }
  });
}

// For one vector of dimensions from `i` on.
template <bool kVnni, size_t kRows>
HWY_INLINE void AddWordColumn(const WordSums& by, size_t first_row, size_t i) {
  const WordTag d;
  SumVec sum[kRows][2];
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    sum[row][0] = sum[row][1] = hn::Zero(SumTag());
  }
  const int16_t* weights = by.weights + first_row * kWeightStride;
  for (size_t t = 0; t < by.num_tokens; t += 2) {
    const int16_t* value = by.values + t * by.head_dim + i;
    const WordVec first = hn::LoadU(d, value);
    const WordVec second = t + 1 < by.num_tokens ? hn::LoadU(d, value + by.head_dim) : first;
    AddPair<kVnni>(hn::InterleaveLower(d, first, second),
                   hn::InterleaveUpper(d, first, second),
                   weights + t,
                   sum);
  }
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    float* out = by.o + (first_row + row) * by.o_stride + i;
#pragma GCC unroll 2
    for (size_t part = 0; part < 2; ++part) {
      const auto added = hn::Mul(hn::Set(SumFloatTag(), by.factors[first_row + row]),
                                 hn::ConvertTo(SumFloatTag(), sum[row][part]));
      StoreBlocks(added, by.corrections[first_row + row], [&](size_t block) {
        return out + 8 * block + 4 * part;
      });
    }
  }
}

template <bool kVnni>
void AddValueWordsWith(const WordSums& by) {
  ForRows(by.num_rows, [&](size_t row, auto count) HWY_ATTR {
    for (size_t i = 0; i < by.head_dim; i += kWordLanes) {
      AddWordColumn<kVnni, decltype(count)::value>(by, row, i);
    }
  });
}

void ScoreKeyWordsOnTarget(const WordScores& by) {
  if constexpr (HWY_TARGET == HWY_AVX3) {
    if (HasVnni()) {
      ScoreKeyWordsWith<true>(by);
      return;
    }
  }
  ScoreKeyWordsWith<false>(by);
}

void AddValueWordsOnTarget(const WordSums& by) {
  if constexpr (HWY_TARGET == HWY_AVX3) {
    if (HasVnni()) {
      AddValueWordsWith<true>(by);
      return;
    }
  }
  AddValueWordsWith<false>(by);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(ScoreKeyWordsOnTarget);
HWY_EXPORT(AddValueWordsOnTarget);

void ScoreKeyWords(const WordScores& by) {
  HWY_DYNAMIC_DISPATCH(ScoreKeyWordsOnTarget)(by);
}

void AddValueWords(const WordSums& by) {
  HWY_DYNAMIC_DISPATCH(AddValueWordsOnTarget)(by);
}

}  // namespace varve
#endif  // HWY_ONCE
