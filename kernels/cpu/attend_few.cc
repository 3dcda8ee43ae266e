// Attention of few rows (decode): all query heads of a kv head are served from registers while its
// encoded bytes go by.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend_few.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <numeric>
#include <type_traits>

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_tile-inl.h"
#include "kernels/cpu/few_rows-inl.h"
#include "kernels/cpu/few_rows_codes-inl.h"
#include "proto/base/check.h"

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

struct FewScratch {
  float* q;               // [kFewRows, head_dim]
  float* scores;          // [kFewRows, kTileTokens]
  float* key_scales;      // [kTileTokens]
  float* key_offsets;     // [kTileTokens]
  float* value_scales;    // [kTileTokens]
  float* value_offsets;   // [kTileTokens]
  float* weights;         // [kTileTokens]
  float* decoded;         // DecodedFloats
  int16_t* q_codes;       // [kFewRows, head_dim], in the order of q_order
  int16_t* weight_codes;  // [kFewRows, kWeightStride]
  float q_sums[kFewRows];
  float q_factors[kFewRows];  // what one of q_codes is worth
  int32_t q_minus_bias[kFewRows];
  float weight_factors[kFewRows];
  int32_t weight_minus_bias[kFewRows];
  float corrections[kFewRows];
  float offsets[kFewRows];
  RowState states[kFewRows];
  CodecId q_order = CodecId::kF32;  // the codec that q_codes are for; kF32: none
};

// The numbers of each token beside its codes.
template <class Reader>
HWY_INLINE void LoadParams(const Reader& reader,
                           const AttendTile& tile,
                           size_t begin,
                           size_t end,
                           FewScratch& scratch,
                           SoftmaxArgs& args) {
  if constexpr (Reader::kScaled) {
    const size_t token = tile.first_token + begin;
    const size_t count = end - begin;
    reader.LoadKeyParams(token, count, scratch.key_scales + begin, scratch.key_offsets + begin);
    reader.LoadValueParams(
        token, count, scratch.value_scales + begin, scratch.value_offsets + begin);
    args.key_scales = scratch.key_scales;
    args.value_scales = scratch.value_scales;
    args.key_offsets = reader.has_offset() ? scratch.key_offsets : nullptr;
    args.value_offsets = reader.has_offset() ? scratch.value_offsets : nullptr;
  }
  if (tile.weights != nullptr) {
    std::copy(tile.weights + begin, tile.weights + end, scratch.weights + begin);
    args.weights = scratch.weights;
  }
}

template <bool kVnni, class D, class Reader>
HWY_INLINE void ScoreTile(D d,
                          const Reader& reader,
                          const AttendTile& tile,
                          size_t begin,
                          size_t end,
                          size_t rows,
                          size_t head_dim,
                          FewScratch& scratch) {
  ForRows(rows, [&](size_t row, auto count) HWY_ATTR {
    constexpr size_t kRows = decltype(count)::value;
    float* scores = scratch.scores + row * kTileTokens;
    if constexpr (Reader::kInteger) {
      ScoreCodeRows<kVnni, kRows>(reader,
                                  tile.first_token,
                                  begin,
                                  end,
                                  scratch.q_codes + row * head_dim,
                                  scratch.q_minus_bias + row,
                                  head_dim,
                                  scores);
    } else {
      ScoreRows<kRows>(
          d, reader, tile.first_token, begin, end, scratch.q + row * head_dim, head_dim, scores);
    }
  });
}

// o = o * corrections + weights * values.
template <bool kVnni, class D, class Reader>
HWY_INLINE void AddTile(D d,
                        const AttendBlock& block,
                        const Reader& reader,
                        const AttendTile& tile,
                        size_t begin,
                        size_t end,
                        FewScratch& scratch) {
  const size_t head_dim = block.params->head_dim;
  const auto rows = static_cast<size_t>(block.num_rows());
  if constexpr (Reader::kInteger) {
    for (size_t row = 0; row < rows; ++row) {
      int16_t* codes = scratch.weight_codes + row * kWeightStride;
      scratch.weight_factors[row] =
          reader.step() *
          QuantizeToPairs(scratch.scores + row * kTileTokens + begin, end - begin, codes);
      codes[end - begin] = 0;
      scratch.weight_minus_bias[row] = MinusBias(codes, end - begin);
    }
  }
  ForRows(rows, [&](size_t row, auto count) HWY_ATTR {
    constexpr size_t kRows = decltype(count)::value;
    float* o = block.o + row * block.o_stride;
    if constexpr (Reader::kInteger) {
      AddCodeRows<kVnni, kRows>(reader,
                                tile.first_token + begin,
                                end - begin,
                                head_dim,
                                CodeWeights{scratch.weight_codes + row * kWeightStride,
                                            scratch.weight_minus_bias + row,
                                            scratch.weight_factors + row,
                                            scratch.corrections + row},
                                o,
                                block.o_stride);
    } else {
      AddRows<kRows>(d,
                     reader,
                     tile.first_token,
                     begin,
                     end,
                     head_dim,
                     scratch.scores + row * kTileTokens,
                     scratch.corrections + row,
                     o,
                     block.o_stride);
    }
  });
  if (reader.has_offset()) {
    for (size_t row = 0; row < rows; ++row) {
      float* o = block.o + row * block.o_stride;
      for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
        hn::StoreU(hn::Add(hn::LoadU(d, o + i), hn::Set(d, scratch.offsets[row])), d, o + i);
      }
    }
  }
}

template <bool kVnni, class D, class Reader>
void AttendTileFew(D d,
                   const AttendBlock& block,
                   const Reader& reader,
                   const AttendTile& tile,
                   FewScratch& scratch) {
  const AttendParams& params = *block.params;
  const auto rows = static_cast<size_t>(block.num_rows());
  const int64_t first = params.positions[block.first_query];
  const int64_t last = params.positions[block.first_query + block.num_queries - 1];
  const size_t begin = tile.Visible(params.window, first).begin;
  const size_t end = tile.Visible(params.window, last).end;
  if (begin >= end) {
    return;
  }
  reader.Prepare(tile.first_token + begin, end - begin);
  SoftmaxArgs args;
  args.softcap = params.logit_softcap;
  args.window = params.window;
  args.per_view = params.lse_per_view != nullptr;
  LoadParams(reader, tile, begin, end, scratch, args);
  ScoreTile<kVnni>(d, reader, tile, begin, end, rows, params.head_dim, scratch);
  const size_t lanes = hn::Lanes(d);
  const Columns columns{begin / lanes * lanes, (end + lanes - 1) / lanes * lanes};
  for (size_t row = 0; row < rows; ++row) {
    float* scores = scratch.scores + row * kTileTokens;
    const int64_t position = block.position(static_cast<int32_t>(row));
    args.score_factor = Reader::kInteger ? scratch.q_factors[row] : 1.0F;
    PrepareScores(d, args, tile, columns, position, scratch.q_sums[row], scores);
    const TileEffect effect = SoftmaxRow(d, args, columns, scores, &scratch.states[row]);
    scratch.corrections[row] = effect.correction;
    scratch.offsets[row] = effect.offset;
  }
  AddTile<kVnni>(d, block, reader, tile, begin, end, scratch);
}

// The queries in the coordinates and, for codes, in the order of the reader.
template <class Reader>
void UseQueries(const AttendBlock& block,
                const Reader& reader,
                CodecId codec,
                FewScratch& scratch,
                bool* rotated) {
  UseCoordinates(block, reader.rotated(), scratch.q, rotated);
  if constexpr (Reader::kInteger) {
    if (scratch.q_order == codec) {
      return;
    }
    const size_t head_dim = block.params->head_dim;
    for (int32_t row = 0; row < block.num_rows(); ++row) {
      scratch.q_factors[row] = QuantizeQuery(
          reader, scratch.q + row * head_dim, head_dim, scratch.q_codes + row * head_dim);
      scratch.q_minus_bias[row] = MinusBias(scratch.q_codes + row * head_dim, head_dim);
    }
    scratch.q_order = codec;
  }
}

// Calls body(reader) with the reader by which few rows read the view: of codes where the codec has
// 8-bit codes, else of floats.
template <class Body>
HWY_INLINE void VisitFewReader(const KvView& view,
                               const AttendBlock& block,
                               float* decoded,
                               const Body& body) {
  const size_t kv_head = block.kv_head;
  const size_t head_dim = block.params->head_dim;
  switch (view.codec) {
    case CodecId::kInt8:
      body(CodeReader<8>(MeaningOfInt8(head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kInt4:
      body(CodeReader<4>(MeaningOfInt(4, head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kInt3:
      body(CodeReader<3>(MeaningOfInt(3, head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kInt2:
      body(CodeReader<2>(MeaningOfInt(2, head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kRot4:
      body(CodeReader<4>(MeaningOfRot(4, head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kRot3:
      body(CodeReader<3>(MeaningOfRot(3, head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kRot2:
      body(CodeReader<2>(MeaningOfRot(2, head_dim), view, kv_head, head_dim));
      break;
    case CodecId::kF32:
      body(ExactReader<DType::kF32>(view, kv_head, head_dim));
      break;
    case CodecId::kBf16:
      body(ExactReader<DType::kBf16>(view, kv_head, head_dim));
      break;
    case CodecId::kFp8:
      body(RowReader<Fp8Codes>(view, kv_head, head_dim));
      break;
    default:
      body(DecodedReader(view, block.params->num_kv_heads, kv_head, head_dim, decoded));
      break;
  }
}

template <bool kVnni, class D>
void AttendFewWith(D d, const AttendBlock& block) {
  const AttendParams& params = *block.params;
  FewScratch scratch;
  scratch.q = block.scratch;
  scratch.scores = scratch.q + kFewRows * params.head_dim;
  scratch.key_scales = scratch.scores + kFewRows * kTileTokens;
  scratch.key_offsets = scratch.key_scales + kTileTokens;
  scratch.value_scales = scratch.key_offsets + kTileTokens;
  scratch.value_offsets = scratch.value_scales + kTileTokens;
  scratch.weights = scratch.value_offsets + kTileTokens;
  scratch.decoded = scratch.weights + kTileTokens;
  scratch.q_codes = reinterpret_cast<int16_t*>(scratch.decoded + DecodedFloats(params.head_dim));
  scratch.weight_codes = scratch.q_codes + kFewRows * params.head_dim;
  // Read to the end of the last vector, used only up to the last token: must be numbers.
  std::fill(scratch.key_scales, scratch.weights + kTileTokens, 0.0F);
  GatherQueries(block, scratch.q);
  std::fill(block.o, block.o + block.num_rows() * block.o_stride, 0.0F);
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const float* q = scratch.q + row * params.head_dim;
    scratch.q_sums[row] = std::accumulate(q, q + params.head_dim, 0.0F);
  }
  bool rotated = false;
  for (size_t index = block.view_begin; index < block.view_end; ++index) {
    const KvView& view = params.views[index];
    const KvView* next = index + 1 < block.view_end ? &params.views[index + 1] : nullptr;
    const auto attend = [&](auto reader) HWY_ATTR {
      UseQueries(block, reader, view.codec, scratch, &rotated);
      if constexpr (decltype(reader)::kInteger) {
        reader.SetNext(next != nullptr && next->codec == view.codec ? next : nullptr,
                       block.kv_head);
      }
      for (int32_t i = 0; i < NumTiles(view); ++i) {
        AttendTileFew<kVnni>(d, block, reader, TileOfView(view, block.kv_head, i), scratch);
      }
    };
    VisitFewReader(view, block, scratch.decoded, attend);
    FinishView(block, index, scratch.states);
  }
  UseCoordinates(block, /*rotate=*/false, scratch.q, &rotated);
  FinishRows(block, scratch.states);
}

void AttendFewOnTarget(const AttendBlock& block) {
  const hn::ScalableTag<float> d;
  if constexpr (HWY_TARGET == HWY_AVX3) {
    if (HasVnni()) {
      AttendFewWith<true>(d, block);
      return;
    }
  }
  AttendFewWith<false>(d, block);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(AttendFewOnTarget);

void AttendFew(const AttendBlock& block) {
  VARVE_DCHECK(block.num_rows() <= kFewRows && block.params->head_dim % kFewHeadDims == 0);
  HWY_DYNAMIC_DISPATCH(AttendFewOnTarget)(block);
}

size_t FewScratchFloats(const AttendPlan& /*plan*/, int32_t head_dim) {
  const size_t codes = kFewRows * (head_dim + kTileTokens + 2);
  return kFewRows * (head_dim + kTileTokens) + 5 * kTileTokens + DecodedFloats(head_dim) +
         codes * sizeof(int16_t) / sizeof(float);
}

}  // namespace varve
#endif  // HWY_ONCE
