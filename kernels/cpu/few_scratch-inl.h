// What attention of few rows keeps between its steps, and how it deals out rows, per target.
#if defined(VARVE_KERNELS_CPU_FEW_SCRATCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_FEW_SCRATCH_INL_H_
#undef VARVE_KERNELS_CPU_FEW_SCRATCH_INL_H_
#else
#define VARVE_KERNELS_CPU_FEW_SCRATCH_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/codec/word_decoder.h"
#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_tile-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How many of `rows` rows go together.
HWY_INLINE size_t NextRows(size_t rows) {
  return rows == 4 || rows >= 7 ? 4 : std::min<size_t>(rows, 3);
}

// Calls body(first row, number of rows as a constant) for each group of rows.
template <class Body>
HWY_INLINE void ForRows(size_t rows, const Body& body) {
  for (size_t row = 0, count; row < rows; row += count) {
    count = NextRows(rows - row);
    switch (count) {
      case 4:
        body(row, std::integral_constant<size_t, 4>());
        break;
      case 3:
        body(row, std::integral_constant<size_t, 3>());
        break;
      case 2:
        body(row, std::integral_constant<size_t, 2>());
        break;
      default:
        body(row, std::integral_constant<size_t, 1>());
        break;
    }
  }
}

// The tokens [begin, end) of a tile that some row sees.
struct FewTokens {
  size_t begin;
  size_t end;

  size_t count() const { return end - begin; }
};

// A tile of an odd number of tokens has a last pair whose second weight is zero.
inline constexpr size_t kWeightStride = kTileTokens + 2;

// Where weighted values are summed up, one row for each query.
struct FewSums {
  float* sums;
  size_t stride;
};

// Sums of values in coordinates of their codec's own (word_decoder.h), kept apart from the others
// of the block until they are mapped back.
struct FewMappedSums {
  const void* coordinates = nullptr;  // null: there are none
  const WordDecoder* decoder = nullptr;
  HeadRun run;  // one of those that the sums are of
  float* sums;  // [kFewRows, head_dim]
  float weights[kFewRows];
  float corrections[kFewRows];  // of the block's other sums, still to be done
};

struct FewScratch {
  // floats: kFewScratchFloats.
  FewScratch(float* floats, size_t head_dim)
      : q(floats),
        turned_q(q + kFewRows * head_dim),
        scores(turned_q + kFewRows * head_dim),
        key_scales(scores + kFewRows * kTileTokens),
        key_offsets(key_scales + kTileTokens),
        value_scales(key_offsets + kTileTokens),
        value_offsets(value_scales + kTileTokens),
        weights(value_offsets + kTileTokens),
        scaled(weights + kTileTokens),
        decoded(scaled + std::max<size_t>(kTileTokens, kMaxHeadDim)),
        q_codes(
            reinterpret_cast<int16_t*>(decoded + DecodedFloats(static_cast<int32_t>(head_dim)))),
        weight_codes(q_codes + kFewRows * head_dim),
        tile_turns(weight_codes + kFewRows * kWeightStride) {
    mapped.sums = reinterpret_cast<float*>(tile_turns + kTileTokens * head_dim);
    word_tables.own = reinterpret_cast<std::byte*>(mapped.sums + kFewRows * head_dim);
    // Read to the end of the last vector, used only up to the last token: must be numbers.
    std::fill(key_scales, scaled, 0.0F);
  }

  float* q;               // [kFewRows, head_dim]
  float* turned_q;        // [kFewRows, head_dim], of TurnQueries
  float* scores;          // [kFewRows, kTileTokens]
  float* key_scales;      // [kTileTokens]
  float* key_offsets;     // [kTileTokens]
  float* value_scales;    // [kTileTokens]
  float* value_offsets;   // [kTileTokens]
  float* weights;         // [kTileTokens] of pruned tokens
  float* scaled;          // [kTileTokens] weights or [head_dim] of a query, times scales
  float* decoded;         // DecodedFloats
  int16_t* q_codes;       // [kFewRows, head_dim], in the order of q_order
  int16_t* weight_codes;  // [kFewRows, kWeightStride]
  int16_t* tile_turns;    // [kTileTokens, head_dim] 32767ths: by a tile's first positions
  float q_sums[kFewRows];
  float q_factors[kFewRows];  // what one of q_codes is worth
  int32_t q_minus_bias[kFewRows];
  float weight_factors[kFewRows];
  int32_t weight_minus_bias[kFewRows];
  float corrections[kFewRows];
  RowState states[kFewRows];
  CodecId q_order = CodecId::kF32;  // the codec that q_codes are for; kF32: none
  const Rope* tile_turns_of = nullptr;
  WordTables word_tables;  // of word_tables_of, as `word_tables_by` sees them
  const CodecTables* word_tables_of = nullptr;
  const WordDecoder* word_tables_by = nullptr;
  FewMappedSums mapped;
};

// The queries for keys that are turned by their distance from the tile's first token, which takes
// no product of tables: R(first + t) k . q = R(t) k . R(-first) q.
inline const float* TurnQueries(const Rope& rope,
                                const AttendTile& tile,
                                size_t rows,
                                FewScratch& scratch) {
  static constexpr int32_t kSamePosition[kFewRows] = {};
  std::copy_n(scratch.q, rows * rope.head_dim(), scratch.turned_q);
  TurnRowsBack(rope, {tile.first_position, kSamePosition}, rows, scratch.turned_q);
  return scratch.turned_q;
}

inline size_t FewScratchFloatsOf(size_t head_dim) {
  const size_t words = kFewRows * (head_dim + kWeightStride) + kTileTokens * head_dim;
  return kFewRows * (2 * head_dim + kTileTokens) + 5 * kTileTokens +
         std::max<size_t>(kTileTokens, kMaxHeadDim) +
         DecodedFloats(static_cast<int32_t>(head_dim)) + words * sizeof(int16_t) / sizeof(float) +
         kFewRows * head_dim + kWordOwnBytes / sizeof(float);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
