// The two halves of attention of few rows over one tile of words (codec/word_decoder.h), per
// target: decoding, turning the queries, outliers. Loops: few_words.h.
#if defined(VARVE_KERNELS_CPU_FEW_WORD_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_FEW_WORD_TILE_INL_H_
#undef VARVE_KERNELS_CPU_FEW_WORD_TILE_INL_H_
#else
#define VARVE_KERNELS_CPU_FEW_WORD_TILE_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kernels/codec/word_decoder.h"
#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/few_code_tile-inl.h"
#include "kernels/cpu/few_rows_codes-inl.h"
#include "kernels/cpu/few_scratch-inl.h"
#include "kernels/cpu/few_words.h"
#include "kernels/rope.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Runs whose codec offers words, and where a part of a tile is decoded to.
class WordReader {
 public:
  static constexpr bool kInteger = true;

  // scratch: of DecodedFloats.
  WordReader(const WordDecoder& decoder,
             const KvView& view,
             size_t num_kv_heads,
             size_t kv_head,
             size_t head_dim,
             float* scratch)
      : decoder_(decoder),
        view_(view),
        run_{.shape = {static_cast<int32_t>(num_kv_heads),
                       static_cast<int32_t>(head_dim),
                       view.token_capacity},
             .kv_head = kv_head,
             .tables = view.tables,
             .encoded = view.encoded.data()},
        num_outliers_(decoder.num_outliers(head_dim)),
        words_(reinterpret_cast<int16_t*>(scratch)),
        turns_(words_ + kWordTokens * head_dim),
        outliers_{reinterpret_cast<uint8_t*>(turns_ + kWordTokens * head_dim),
                  scratch + kWordTokens * (head_dim + num_outliers_)} {}

  bool keys_rotated() const { return false; }
  bool values_rotated() const { return false; }
  bool has_offset() const { return true; }
  float step() const { return 1.0F; }

  const WordDecoder& decoder() const { return decoder_; }
  const KvView& view() const { return view_; }
  const HeadRun& run() const { return run_; }
  size_t head_dim() const { return run_.shape.head_dim; }
  size_t num_outliers() const { return num_outliers_; }
  int16_t* words() const { return words_; }                  // [kWordTokens, head_dim]
  int16_t* turns() const { return turns_; }                  // [kWordTokens, head_dim]
  const OutlierRows& outliers() const { return outliers_; }  // [kWordTokens]

  // Calls body(token of the part, dim, value) for each outlier of the part.
  template <class Body>
  HWY_INLINE void ForOutliers(size_t num_tokens, const Body& body) const {
    for (size_t place = 0; place < num_tokens * num_outliers_; ++place) {
      if (outliers_.dims[place] < head_dim()) {
        body(place / num_outliers_, outliers_.dims[place], outliers_.values[place]);
      }
    }
  }

 private:
  const WordDecoder& decoder_;
  const KvView& view_;
  HeadRun run_;
  size_t num_outliers_;
  int16_t* words_;
  int16_t* turns_;
  OutlierRows outliers_;
};

// By which the keys of a part of a tile are turned.
struct PartTurns {
  const int16_t* words;
  size_t stride;
};

inline void SetTurnWords(const Rope& rope, int64_t position, int16_t* out) {
  const SumFloatTag d;
  const hn::Rebind<int16_t, SumFloatTag> d16;
  float turn[kMaxHeadDim];
  rope.Turn(position, turn);
  for (size_t i = 0; i < rope.head_dim(); i += kSumLanes) {
    const auto word = hn::NearestInt(hn::Mul(hn::LoadU(d, turn + i), hn::Set(d, kMaxPairCode)));
    hn::StoreU(hn::DemoteTo(d16, word), d16, out + i);
  }
}

inline PartTurns TurnsOf(const WordReader& reader,
                         const AttendTile& tile,
                         FewTokens part,
                         FewScratch& scratch) {
  const Rope* rope = reader.view().rope;
  const size_t head_dim = reader.head_dim();
  if (rope == nullptr) {
    std::fill_n(reader.turns(), head_dim / 2, int16_t{32767});
    std::fill_n(reader.turns() + head_dim / 2, head_dim / 2, int16_t{0});
    return {reader.turns(), 0};
  }
  if (tile.indices != nullptr) {
    for (size_t t = 0; t < part.count(); ++t) {
      SetTurnWords(*rope,
                   reader.view().first_position + tile.indices[part.begin + t],
                   reader.turns() + t * head_dim);
    }
    return {reader.turns(), head_dim};
  }
  if (scratch.tile_turns_of != rope) {
    for (size_t t = 0; t < kTileTokens; ++t) {
      SetTurnWords(*rope, static_cast<int64_t>(t), scratch.tile_turns + t * head_dim);
    }
    scratch.tile_turns_of = rope;
  }
  return {scratch.tile_turns + part.begin * head_dim, head_dim};
}

// The queries that meet the tile's keys; in the channels' steps they are words, scratch.q_codes.
inline const float* SetWordQueries(const WordReader& reader,
                                   const AttendTile& tile,
                                   size_t rows,
                                   FewScratch& scratch) {
  const size_t head_dim = reader.head_dim();
  const bool is_turned = reader.view().rope != nullptr && tile.indices == nullptr;
  const float* q = is_turned ? TurnQueries(*reader.view().rope, tile, rows, scratch) : scratch.q;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < head_dim; ++i) {
      scratch.scaled[i] = q[row * head_dim + i] * scratch.word_tables.key_steps[i];
    }
    scratch.q_factors[row] =
        QuantizeToPairs(scratch.scaled, head_dim, kMaxQueryWord, scratch.q_codes + row * head_dim);
  }
  scratch.q_order = CodecId::kF32;
  return q;
}

// What outliers of keys add to the scores.
inline void AddKeyOutliers(const WordReader& reader,
                           PartTurns turns,
                           FewTokens part,
                           size_t rows,
                           const float* queries,
                           FewScratch& scratch) {
  const size_t head_dim = reader.head_dim();
  const size_t half = head_dim / 2;
  reader.ForOutliers(part.count(), [&](size_t t, size_t dim, float value) HWY_ATTR {
    const bool is_first = dim < half;
    const size_t pair = is_first ? dim : dim - half;
    const float unit = value / 32767.0F;
    const int16_t* turn = turns.words + t * turns.stride;
    const float cos = unit * static_cast<float>(turn[pair]);
    const float sin = unit * static_cast<float>(turn[pair + half]);
    // Where the value goes to: (cos, sin) from the first of a pair, (-sin, cos) from the second.
    const float to_first = is_first ? cos : -sin;
    const float to_second = is_first ? sin : cos;
    for (size_t row = 0; row < rows; ++row) {
      const float* q = queries + row * head_dim;
      scratch.scores[row * kTileTokens + part.begin + t] +=
          to_first * q[pair] + to_second * q[pair + half];
    }
  });
}

// Calls body(part) for the parts of a tile's tokens.
template <class Body>
HWY_INLINE void ForParts(FewTokens tokens, const Body& body) {
  for (FewTokens part = tokens; part.begin < tokens.end; part.begin = part.end) {
    part.end = std::min(tokens.end, part.begin + kWordTokens);
    body(part);
  }
}

inline void ScoreWordTile(const WordReader& reader,
                          const AttendTile& tile,
                          FewTokens tokens,
                          size_t rows,
                          FewScratch& scratch) {
  const size_t head_dim = reader.head_dim();
  if (scratch.word_tables_of != reader.run().tables ||
      scratch.word_tables_by != &reader.decoder()) {
    reader.decoder().LoadTables(reader.run(), &scratch.word_tables);
    scratch.word_tables_of = reader.run().tables;
    scratch.word_tables_by = &reader.decoder();
  }
  const float* queries = SetWordQueries(reader, tile, rows, scratch);
  ForParts(tokens, [&](FewTokens part) HWY_ATTR {
    const PartTurns turns = TurnsOf(reader, tile, part, scratch);
    reader.decoder().DecodeKeyWords(reader.run(),
                                    scratch.word_tables,
                                    tile.first_token + part.begin,
                                    part.count(),
                                    reader.words(),
                                    scratch.key_scales + part.begin,
                                    reader.outliers());
    ScoreKeyWords({.num_rows = rows,
                   .head_dim = head_dim,
                   .num_tokens = part.count(),
                   .keys = reader.words(),
                   .turns = turns.words,
                   .turn_stride = turns.stride,
                   .q = scratch.q_codes,
                   .scores = scratch.scores + part.begin});
    for (size_t row = 0; row < rows; ++row) {
      float* scores = scratch.scores + row * kTileTokens;
      for (size_t t = part.begin; t < part.end; ++t) {
        scores[t] *= scratch.q_factors[row] * scratch.key_scales[t];
      }
    }
    AddKeyOutliers(reader, turns, part, rows, queries, scratch);
  });
}

// Adds what was summed up in coordinates of a codec's own to the block's sums.
inline void MapBack(const AttendBlock& block, FewScratch& scratch) {
  FewMappedSums& mapped = scratch.mapped;
  if (mapped.coordinates == nullptr) {
    return;
  }
  const size_t head_dim = block.params->head_dim;
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    float* o = block.o + row * block.o_stride;
    for (size_t i = 0; i < head_dim; ++i) {
      o[i] *= mapped.corrections[row];
    }
    mapped.decoder->MapValues(
        mapped.run, scratch.word_tables, mapped.sums + row * head_dim, mapped.weights[row], o);
  }
  mapped.coordinates = nullptr;
}

// Makes the sums ready for the values of a view. decoder: null, or that of the run.
inline void UseValueCoordinates(const AttendBlock& block,
                                const WordDecoder* decoder,
                                const HeadRun& run,
                                FewScratch& scratch) {
  FewMappedSums& mapped = scratch.mapped;
  const void* next = decoder == nullptr ? nullptr : decoder->ValueCoordinates(run);
  if (next == mapped.coordinates && decoder == mapped.decoder) {
    return;
  }
  MapBack(block, scratch);
  if (next == nullptr) {
    return;
  }
  mapped.coordinates = next;
  mapped.decoder = decoder;
  mapped.run = run;
  std::fill_n(mapped.sums, block.num_rows() * run.shape.head_dim, 0.0F);
  std::fill_n(mapped.weights, kFewRows, 0.0F);
  std::fill_n(mapped.corrections, kFewRows, 1.0F);
}

// Where the values of the tile go, after the block's sums were told of the new weights.
inline FewSums SumsForTile(const AttendBlock& block, FewTokens tokens, FewScratch& scratch) {
  FewMappedSums& mapped = scratch.mapped;
  if (mapped.coordinates == nullptr) {
    return {block.o, block.o_stride};
  }
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const float* weights = scratch.scores + row * kTileTokens;
    const float correction = scratch.corrections[row];
    mapped.corrections[row] *= correction;
    mapped.weights[row] = std::accumulate(
        weights + tokens.begin, weights + tokens.end, mapped.weights[row] * correction);
  }
  return {mapped.sums, static_cast<size_t>(block.params->head_dim)};
}

// o = o * corrections + weights * values.
template <class D>
void AddWordTile(D d,
                 const AttendBlock& block,
                 const WordReader& reader,
                 const AttendTile& tile,
                 FewTokens tokens,
                 FewScratch& scratch) {
  const auto rows = static_cast<size_t>(block.num_rows());
  reader.decoder().LoadValueParams(reader.run(),
                                   scratch.word_tables,
                                   tile.first_token + tokens.begin,
                                   tokens.count(),
                                   scratch.value_scales + tokens.begin,
                                   scratch.value_offsets + tokens.begin);
  const FewSums to = SumsForTile(block, tokens, scratch);
  float offsets[kFewRows];
  for (size_t row = 0; row < rows; ++row) {
    offsets[row] = SetCodeWeights(d, reader, row, tokens, kMaxWordWeight, scratch);
  }
  float ones[kFewRows];
  std::fill(ones, ones + kFewRows, 1.0F);
  ForParts(tokens, [&](FewTokens part) HWY_ATTR {
    reader.decoder().DecodeValueWords(reader.run(),
                                      scratch.word_tables,
                                      tile.first_token + part.begin,
                                      part.count(),
                                      reader.words(),
                                      reader.outliers());
    AddValueWords({.num_rows = rows,
                   .head_dim = reader.head_dim(),
                   .num_tokens = part.count(),
                   .values = reader.words(),
                   .weights = scratch.weight_codes + part.begin - tokens.begin,
                   .factors = scratch.weight_factors,
                   .corrections = part.begin == tokens.begin ? scratch.corrections : ones,
                   .o = to.sums,
                   .o_stride = to.stride});
    // The offset of a token is added to all dimensions, but not meant for its outliers.
    reader.ForOutliers(part.count(), [&](size_t t, size_t dim, float value) HWY_ATTR {
      const float above = value - scratch.value_offsets[part.begin + t];
      for (size_t row = 0; row < rows; ++row) {
        to.sums[row * to.stride + dim] +=
            scratch.scores[row * kTileTokens + part.begin + t] * above;
      }
    });
  });
  AddOffsets(d, to, offsets, rows, 0, reader.head_dim());
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
