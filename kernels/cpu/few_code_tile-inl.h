// The two halves of attention of few rows over one tile of codes, before and after the softmax, per
// target. Readers: code_readers-inl.h; register tiles: few_rows_codes-inl.h.
#if defined(VARVE_KERNELS_CPU_FEW_CODE_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_FEW_CODE_TILE_INL_H_
#undef VARVE_KERNELS_CPU_FEW_CODE_TILE_INL_H_
#else
#define VARVE_KERNELS_CPU_FEW_CODE_TILE_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/code_readers-inl.h"
#include "kernels/cpu/few_rows_codes-inl.h"
#include "kernels/cpu/few_scratch-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Reader>
HWY_INLINE void SetCodeQuery(const Reader& reader,
                             size_t row,
                             const float* q,
                             size_t head_dim,
                             FewScratch& scratch) {
  int16_t* codes = scratch.q_codes + row * head_dim;
  scratch.q_factors[row] = QuantizeQuery(reader, q, head_dim, codes);
  scratch.q_minus_bias[row] = MinusBias(codes, head_dim);
}

// The queries as integers in the order of the reader's codes, if they are not yet.
template <class Reader>
void UseCodeQueries(const AttendBlock& block,
                    const Reader& reader,
                    CodecId codec,
                    FewScratch& scratch) {
  if (Reader::kKeyGroups || scratch.q_order == codec) {
    return;
  }
  const size_t head_dim = block.params->head_dim;
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    SetCodeQuery(reader, row, scratch.q + row * head_dim, head_dim, scratch);
  }
  scratch.q_order = codec;
}

template <bool kVnni, class Reader>
HWY_INLINE void ScoreCodeTokens(const Reader& reader,
                                const AttendTile& tile,
                                FewTokens tokens,
                                size_t rows,
                                size_t head_dim,
                                FewScratch& scratch) {
  ForRows(rows, [&](size_t row, auto count) HWY_ATTR {
    ScoreCodeRows<kVnni, decltype(count)::value>(reader.rows(),
                                                 tile.first_token,
                                                 tokens.begin,
                                                 tokens.end,
                                                 scratch.q_codes + row * head_dim,
                                                 scratch.q_minus_bias + row,
                                                 head_dim,
                                                 scratch.scores + row * kTileTokens);
  });
}

// Scores of keys that have a scale and an offset for each channel of a group of tokens: both go
// into the query, once for each group.
template <bool kVnni, class D, class Reader>
void ScoreKeyGroups(D d,
                    const Reader& reader,
                    const AttendTile& tile,
                    FewTokens tokens,
                    size_t rows,
                    size_t head_dim,
                    FewScratch& scratch) {
  scratch.q_order = CodecId::kF32;
  alignas(64) float scales[kMaxHeadDim];
  alignas(64) float offsets[kMaxHeadDim];
  const size_t lanes = hn::Lanes(d);
  for (FewTokens group = tokens; group.begin < tokens.end; group.begin = group.end) {
    const size_t token = tile.first_token + group.begin;
    group.end = std::min(tokens.end, reader.KeyGroupEnd(token) - tile.first_token);
    reader.LoadKeyGroup(token, scales, offsets);
    float constants[kFewRows];
    for (size_t row = 0; row < rows; ++row) {
      const float* q = scratch.q + row * head_dim;
      auto constant = hn::Zero(d);
      for (size_t i = 0; i < head_dim; i += lanes) {
        const auto query = hn::LoadU(d, q + i);
        hn::StoreU(hn::Mul(query, hn::Load(d, scales + i)), d, scratch.scaled + i);
        constant = hn::MulAdd(query, hn::Load(d, offsets + i), constant);
      }
      constants[row] = SumLanes(d, constant);
      SetCodeQuery(reader, row, scratch.scaled, head_dim, scratch);
    }
    ScoreCodeTokens<kVnni>(reader, tile, group, rows, head_dim, scratch);
    for (size_t row = 0; row < rows; ++row) {
      float* scores = scratch.scores + row * kTileTokens;
      for (size_t t = group.begin; t < group.end; ++t) {
        scores[t] = scores[t] * scratch.q_factors[row] + constants[row];
      }
    }
  }
}

// Scores of the tokens; what PrepareScores has to multiply them with goes into `args`.
template <bool kVnni, class D, class Reader>
HWY_INLINE void ScoreCodeTile(D d,
                              const Reader& reader,
                              const AttendTile& tile,
                              FewTokens tokens,
                              size_t rows,
                              size_t head_dim,
                              FewScratch& scratch,
                              SoftmaxArgs& args) {
  if constexpr (Reader::kKeyGroups) {
    ScoreKeyGroups<kVnni>(d, reader, tile, tokens, rows, head_dim, scratch);
  } else {
    reader.LoadKeyParams(tile.first_token + tokens.begin,
                         tokens.count(),
                         scratch.key_scales + tokens.begin,
                         scratch.key_offsets + tokens.begin);
    args.key_scales = scratch.key_scales;
    args.key_offsets = reader.has_offset() ? scratch.key_offsets : nullptr;
    ScoreCodeTokens<kVnni>(reader, tile, tokens, rows, head_dim, scratch);
  }
}

// The softmax weights of one row times the scales of a group of values, as integers up to
// largest_code. Returns what the group's offsets add to every one of its dimensions.
template <class D, class Reader>
HWY_INLINE float SetCodeWeights(D d,
                                const Reader& reader,
                                size_t row,
                                FewTokens tokens,
                                float largest_code,
                                FewScratch& scratch) {
  const float* weights = scratch.scores + row * kTileTokens;
  auto offset = hn::Zero(d);
  // Weights before the first token are zero, and behind the last one: whole vectors will do.
  const size_t first = tokens.begin / hn::Lanes(d) * hn::Lanes(d);
  for (size_t t = first; t < tokens.end; t += hn::Lanes(d)) {
    const auto weight = hn::LoadU(d, weights + t);
    hn::StoreU(hn::Mul(weight, hn::LoadU(d, scratch.value_scales + t)), d, scratch.scaled + t);
    offset = hn::MulAdd(weight, hn::LoadU(d, scratch.value_offsets + t), offset);
  }
  int16_t* codes = scratch.weight_codes + row * kWeightStride;
  scratch.weight_factors[row] =
      reader.step() *
      QuantizeToPairs(scratch.scaled + tokens.begin, tokens.count(), largest_code, codes);
  codes[tokens.count()] = 0;
  scratch.weight_minus_bias[row] = MinusBias(codes, tokens.count());
  return reader.has_offset() ? SumLanes(d, offset) : 0.0F;
}

// Adds offsets[row] to the dimensions [first_dim, last_dim) of each row of sums.
template <class D>
HWY_INLINE void AddOffsets(D d,
                           FewSums to,
                           const float* offsets,
                           size_t rows,
                           size_t first_dim,
                           size_t last_dim) {
  for (size_t row = 0; row < rows; ++row) {
    float* o = to.sums + row * to.stride;
    for (size_t i = first_dim; i < last_dim; i += hn::Lanes(d)) {
      hn::StoreU(hn::Add(hn::LoadU(d, o + i), hn::Set(d, offsets[row])), d, o + i);
    }
  }
}

// o = o * corrections + weights * values.
template <bool kVnni, class D, class Reader>
HWY_INLINE void AddCodeTile(D d,
                            const AttendBlock& block,
                            const Reader& reader,
                            const AttendTile& tile,
                            FewTokens tokens,
                            FewScratch& scratch) {
  const size_t head_dim = block.params->head_dim;
  const auto rows = static_cast<size_t>(block.num_rows());
  const size_t token = tile.first_token + tokens.begin;
  for (size_t t = 0; t < tokens.count(); ++t) {
    reader.PrefetchNextKey(t);
  }
  // The same kernels for every codec of as many bits: they are what takes the compiler its time.
  const size_t group_dims = head_dim / reader.num_value_groups();
  for (size_t group = 0; group < reader.num_value_groups(); ++group) {
    reader.LoadValueParams(group,
                           token,
                           tokens.count(),
                           scratch.value_scales + tokens.begin,
                           scratch.value_offsets + tokens.begin);
    float offsets[kFewRows];
    for (size_t row = 0; row < rows; ++row) {
      offsets[row] = SetCodeWeights(d, reader, row, tokens, kMaxPairCode, scratch);
    }
    ForRows(rows, [&](size_t row, auto count) HWY_ATTR {
      const CodeWeights by{scratch.weight_codes + row * kWeightStride,
                           scratch.weight_minus_bias + row,
                           scratch.weight_factors + row,
                           scratch.corrections + row};
      AddCodeRows<kVnni, decltype(count)::value>(reader.rows(),
                                                 token,
                                                 tokens.count(),
                                                 group * group_dims,
                                                 (group + 1) * group_dims,
                                                 by,
                                                 block.o + row * block.o_stride,
                                                 block.o_stride);
    });
    if (reader.has_offset()) {
      AddOffsets(d,
                 {block.o, block.o_stride},
                 offsets,
                 rows,
                 group * group_dims,
                 (group + 1) * group_dims);
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
