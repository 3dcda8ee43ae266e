// The register tiles of attention of few rows, per target: scores of up to four queries with the
// keys of some tokens, and the weighted sum of their values.
#if defined(VARVE_KERNELS_CPU_FEW_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_FEW_ROWS_INL_H_
#undef VARVE_KERNELS_CPU_FEW_ROWS_INL_H_
#else
#define VARVE_KERNELS_CPU_FEW_ROWS_INL_H_
#endif

#include <cstddef>

#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/math-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FourTag = hn::FixedTag<float, 4>;

// Sums the parts of a vector down to four lanes. Of floats, as all here, or of 32-bit integers.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<hn::TFromD<D>, FourTag>> FoldToFour(D /*d*/, hn::Vec<D> x) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return x;
  } else {
    const hn::Half<D> half;
    return FoldToFour(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)));
  }
}

// The four sums over the lanes of a, b, c and e. Folds last: four vectors share its shuffles.
template <class D>
HWY_INLINE hn::Vec<FourTag> SumFour(D d, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<D> c, hn::Vec<D> e) {
  const hn::Repartition<double, D> pairs;
  const auto ab =
      hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce =
      hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto four = FoldToFour(d,
                               hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)),
                                       hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce))));
  if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
    return four;
  } else {
    return hn::ConvertTo(FourTag(), four);
  }
}

// Keeps the compiler from loading a value again for each use: two loads per cycle are fewer than
// the FMAs would take.
template <class V>
HWY_INLINE void KeepInRegister(V& value) {
#if defined(__GNUC__) && defined(__x86_64__)
  asm("" : "+v"(value.raw));
#else
  (void)value;
#endif
}

// scores[row * kTileTokens + t] = sum over the lanes of sum[row][t].
template <size_t kRows, size_t kTokens, class D>
HWY_INLINE void StoreSums(D d,
                          const hn::Vec<D> (&sum)[kRows][kTokens],
                          float* HWY_RESTRICT scores) {
  if constexpr (kTokens % 4 == 0) {
    for (size_t row = 0; row < kRows; ++row) {
      for (size_t t = 0; t < kTokens; t += 4) {
        const auto four =
            SumFour(d, sum[row][t], sum[row][t + 1], sum[row][t + 2], sum[row][t + 3]);
        hn::StoreU(four, FourTag(), scores + row * kTileTokens + t);
      }
    }
  } else if constexpr (kTokens == 2 && kRows % 2 == 0) {
    const hn::Half<FourTag> two;
    for (size_t row = 0; row < kRows; row += 2) {
      const auto four = SumFour(d, sum[row][0], sum[row][1], sum[row + 1][0], sum[row + 1][1]);
      hn::StoreU(hn::LowerHalf(two, four), two, scores + row * kTileTokens);
      hn::StoreU(hn::UpperHalf(two, four), two, scores + (row + 1) * kTileTokens);
    }
  } else {
    for (size_t row = 0; row < kRows; ++row) {
      for (size_t t = 0; t < kTokens; ++t) {
        const hn::Vec<D> none = hn::Zero(d);
        scores[row * kTileTokens + t] = hn::GetLane(SumFour(d, sum[row][t], none, none, none));
      }
    }
  }
}

// Scores of kRows queries with kTokens keys: scores[row * kTileTokens + token].
template <size_t kRows, size_t kTokens, class D, class Reader>
HWY_INLINE void ScoreTokens(D d,
                            const Reader& reader,
                            size_t token,
                            const float* HWY_RESTRICT q,
                            size_t head_dim,
                            float* HWY_RESTRICT scores) {
  using V = hn::Vec<D>;
  V sum[kRows][kTokens];
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      sum[row][t] = hn::Zero(d);
    }
  }
  for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    // Twelve sums, three queries and one key are all the registers that AVX2 has.
    V query[kRows];
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      query[row] = hn::LoadU(d, q + row * head_dim + i);
      KeepInRegister(query[row]);
    }
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      V key = reader.Key(d, token + t, i);
      KeepInRegister(key);
#pragma GCC unroll 4
      for (size_t row = 0; row < kRows; ++row) {
        sum[row][t] = hn::MulAdd(query[row], key, sum[row][t]);
      }
    }
  }
  StoreSums<kRows, kTokens>(d, sum, scores);
}

// Scores of kRows queries with tokens [begin, end) of a tile that starts at `token` of the run.
template <size_t kRows, class D, class Reader>
void ScoreRows(D d,
               const Reader& reader,
               size_t token,
               size_t begin,
               size_t end,
               const float* q,
               size_t head_dim,
               float* scores) {
  // At most twelve sums, and at least eight to hide the latency of the FMAs.
  constexpr size_t kTokens = kRows == 1 ? 8 : (kRows == 4 ? 2 : 4);
  size_t t = begin;
  for (; t + kTokens <= end; t += kTokens) {
    ScoreTokens<kRows, kTokens>(d, reader, token + t, q, head_dim, scores + t);
  }
  for (; t < end; ++t) {
    ScoreTokens<kRows, 1>(d, reader, token + t, q, head_dim, scores + t);
  }
}

// o[row, i ..] = o * corrections[row] + sum over tokens of weight * value, for kVectors vectors of
// dimensions.
template <size_t kRows, size_t kVectors, class D, class Reader>
HWY_INLINE void AddValues(D d,
                          const Reader& reader,
                          size_t token,
                          size_t begin,
                          size_t end,
                          size_t i,
                          const float* HWY_RESTRICT weights,
                          const float* corrections,
                          float* HWY_RESTRICT o,
                          size_t o_stride) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  V sum[kRows][kVectors];
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
    const V correction = hn::Set(d, corrections[row]);
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      sum[row][v] = hn::Mul(correction, hn::LoadU(d, o + row * o_stride + i + v * lanes));
    }
  }
  for (size_t t = begin; t < end; ++t) {
    V weight[kRows];
#pragma GCC unroll 4
    for (size_t row = 0; row < kRows; ++row) {
      weight[row] = hn::Set(d, weights[row * kTileTokens + t]);
      KeepInRegister(weight[row]);
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      V value = reader.Value(d, token + t, i + v * lanes);
      KeepInRegister(value);
#pragma GCC unroll 4
      for (size_t row = 0; row < kRows; ++row) {
        sum[row][v] = hn::MulAdd(weight[row], value, sum[row][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sum[row][v], d, o + row * o_stride + i + v * lanes);
    }
  }
}

template <size_t kRows, class D, class Reader>
void AddRows(D d,
             const Reader& reader,
             size_t token,
             size_t begin,
             size_t end,
             size_t head_dim,
             const float* weights,
             const float* corrections,
             float* o,
             size_t o_stride) {
  constexpr size_t kVectors = kRows == 1 ? 8 : (kRows == 4 ? 2 : 4);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + kVectors * lanes <= head_dim; i += kVectors * lanes) {
    AddValues<kRows, kVectors>(d, reader, token, begin, end, i, weights, corrections, o, o_stride);
  }
  for (; i < head_dim; i += lanes) {
    AddValues<kRows, 1>(d, reader, token, begin, end, i, weights, corrections, o, o_stride);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
