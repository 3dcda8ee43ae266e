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
#include "kernels/cpu/few_code_tile-inl.h"
#include "kernels/cpu/few_rows-inl.h"
#include "kernels/cpu/few_word_tile-inl.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class Reader>
HWY_INLINE void ScoreFloatTile(D d,
                               const Reader& reader,
                               const AttendTile& tile,
                               FewTokens tokens,
                               size_t rows,
                               size_t head_dim,
                               const float* q,
                               FewScratch& scratch,
                               SoftmaxArgs& args) {
  if constexpr (Reader::kScaled) {
    static_assert(!Reader::kHasOffset);
    reader.LoadKeyScales(
        tile.first_token + tokens.begin, tokens.count(), scratch.key_scales + tokens.begin);
    reader.LoadValueScales(
        tile.first_token + tokens.begin, tokens.count(), scratch.value_scales + tokens.begin);
    args.key_scales = scratch.key_scales;
    args.value_scales = scratch.value_scales;
  }
  ForRows(rows, [&](size_t row, auto count) HWY_ATTR {
    ScoreRows<decltype(count)::value>(d,
                                      reader,
                                      tile.first_token,
                                      tokens.begin,
                                      tokens.end,
                                      q + row * head_dim,
                                      head_dim,
                                      scratch.scores + row * kTileTokens);
  });
}

template <class D, class Reader>
HWY_INLINE void AddFloatTile(D d,
                             const AttendBlock& block,
                             const Reader& reader,
                             const AttendTile& tile,
                             FewTokens tokens,
                             FewScratch& scratch) {
  ForRows(block.num_rows(), [&](size_t row, auto count) HWY_ATTR {
    AddRows<decltype(count)::value>(d,
                                    reader,
                                    tile.first_token,
                                    tokens.begin,
                                    tokens.end,
                                    block.params->head_dim,
                                    scratch.scores + row * kTileTokens,
                                    scratch.corrections + row,
                                    block.o + row * block.o_stride,
                                    block.o_stride);
  });
}

template <bool kVnni, class D, class Reader>
void AttendTileFew(D d,
                   const AttendBlock& block,
                   Reader& reader,
                   const AttendTile& tile,
                   FewScratch& scratch) {
  const AttendParams& params = *block.params;
  const auto rows = static_cast<size_t>(block.num_rows());
  const int64_t first = params.positions[block.first_query];
  const int64_t last = params.positions[block.first_query + block.num_queries - 1];
  const FewTokens tokens{static_cast<size_t>(tile.Visible(params.window, first).begin),
                         static_cast<size_t>(tile.Visible(params.window, last).end)};
  if (tokens.begin >= tokens.end) {
    return;
  }
  SoftmaxArgs args;
  args.softcap = params.logit_softcap;
  args.window = params.window;
  args.per_view = params.lse_per_view != nullptr;
  if (tile.weights != nullptr) {
    std::copy(
        tile.weights + tokens.begin, tile.weights + tokens.end, scratch.weights + tokens.begin);
    args.weights = scratch.weights;
  }
  constexpr bool kWords = std::is_same_v<Reader, WordReader>;
  if constexpr (kWords) {
    ScoreWordTile(reader, tile, tokens, rows, scratch);
  } else if constexpr (Reader::kInteger) {
    ScoreCodeTile<kVnni>(d, reader, tile, tokens, rows, params.head_dim, scratch, args);
  } else {
    const float* q = scratch.q;
    if constexpr (std::is_same_v<Reader, DecodedReader>) {
      if (tile.view->rope != nullptr && tile.indices == nullptr) {
        q = TurnQueries(*tile.view->rope, tile, rows, scratch);
        reader.SetFirstPosition(-int64_t{tile.first_token});
      }
    }
    reader.Prepare(tile.first_token + tokens.begin, tokens.count());
    ScoreFloatTile(d, reader, tile, tokens, rows, params.head_dim, q, scratch, args);
  }
  const size_t lanes = hn::Lanes(d);
  const Columns columns{tokens.begin / lanes * lanes, (tokens.end + lanes - 1) / lanes * lanes};
  for (size_t row = 0; row < rows; ++row) {
    float* scores = scratch.scores + row * kTileTokens;
    const int64_t position = block.position(static_cast<int32_t>(row));
    args.score_factor =
        args.key_scales == nullptr || !Reader::kInteger ? 1.0F : scratch.q_factors[row];
    const float largest =
        PrepareScores(d, args, tile, columns, position, scratch.q_sums[row], scores);
    scratch.corrections[row] =
        SoftmaxRow(d, args, columns, largest, scores, &scratch.states[row]).correction;
  }
  if (params.o == nullptr && params.o_per_view == nullptr) {
    return;
  }
  if constexpr (kWords) {
    AddWordTile(d, block, reader, tile, tokens, scratch);
  } else if constexpr (Reader::kInteger) {
    AddCodeTile<kVnni>(d, block, reader, tile, tokens, scratch);
  } else {
    AddFloatTile(d, block, reader, tile, tokens, scratch);
  }
}

// Calls body(reader) with the reader by which few rows read the view: of codes where the codec has
// 8-bit codes, of words where it offers them, else of floats.
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
    case CodecId::kKivi4:
      body(KiviReader<4>(64, view, kv_head, head_dim));
      break;
    case CodecId::kKivi2:
      body(KiviReader<2>(64, view, kv_head, head_dim));
      break;
    case CodecId::kKivi4G32:
      body(KiviReader<4>(32, view, kv_head, head_dim));
      break;
    case CodecId::kKivi2G32:
      body(KiviReader<2>(32, view, kv_head, head_dim));
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
    default: {
      const size_t num_kv_heads = block.params->num_kv_heads;
      if (const WordDecoder* decoder = WordDecoderOf(*FindCodec(view.codec).value())) {
        body(WordReader(*decoder, view, num_kv_heads, kv_head, head_dim, decoded));
      } else {
        body(DecodedReader(view, num_kv_heads, kv_head, head_dim, decoded));
      }
    }
  }
}

template <bool kVnni, class D>
void AttendFewWith(D d, const AttendBlock& block) {
  const AttendParams& params = *block.params;
  FewScratch scratch(block.scratch, params.head_dim);
  GatherQueries(block, scratch.q);
  std::fill(block.o, block.o + block.num_rows() * block.o_stride, 0.0F);
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const float* q = scratch.q + row * params.head_dim;
    scratch.q_sums[row] = std::accumulate(q, q + params.head_dim, 0.0F);
  }
  Coordinates coordinates;
  for (size_t index = block.view_begin; index < block.view_end; ++index) {
    const KvView& view = params.views[index];
    const KvView* next = index + 1 < block.view_end ? &params.views[index + 1] : nullptr;
    const auto attend = [&](auto reader) HWY_ATTR {
      if constexpr (std::is_same_v<decltype(reader), WordReader>) {
        UseValueCoordinates(block, &reader.decoder(), reader.run(), scratch);
      } else {
        MapBack(block, scratch);
      }
      UseCoordinates(
          block, {reader.keys_rotated(), reader.values_rotated()}, scratch.q, &coordinates);
      if constexpr (decltype(reader)::kInteger && !std::is_same_v<decltype(reader), WordReader>) {
        UseCodeQueries(block, reader, view.codec, scratch);
        if (next != nullptr && next->codec == view.codec) {
          reader.SetNextView(*next, block.kv_head);
        }
      }
      for (int32_t i = 0; i < NumTiles(view); ++i) {
        AttendTileFew<kVnni>(d, block, reader, TileOfView(view, block.kv_head, i), scratch);
      }
    };
    VisitFewReader(view, block, scratch.decoded, attend);
    FinishView(block, index, scratch.states);
  }
  MapBack(block, scratch);
  UseCoordinates(block, {}, scratch.q, &coordinates);
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
  return HWY_STATIC_DISPATCH(FewScratchFloatsOf)(head_dim);
}

}  // namespace varve
#endif  // HWY_ONCE
