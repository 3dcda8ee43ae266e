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

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_tile-inl.h"
#include "kernels/cpu/few_rows-inl.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How many of `rows` rows go together.
HWY_INLINE size_t NextRows(size_t rows) {
  return rows == 4 || rows >= 7 ? 4 : std::min<size_t>(rows, 3);
}

struct FewScratch {
  float* q;              // [kFewRows, head_dim]
  float* scores;         // [kFewRows, kTileTokens]
  float* key_scales;     // [kTileTokens]
  float* key_offsets;    // [kTileTokens]
  float* value_scales;   // [kTileTokens]
  float* value_offsets;  // [kTileTokens]
  float* weights;        // [kTileTokens]
  float* decoded;        // DecodedFloats
  float q_sums[kFewRows];
  float corrections[kFewRows];
  float offsets[kFewRows];
  RowState states[kFewRows];
};

template <class D, class Reader>
void AttendTileFew(D d,
                   const AttendBlock& block,
                   const Reader& reader,
                   const AttendTile& tile,
                   FewScratch& scratch) {
  const AttendParams& params = *block.params;
  const size_t head_dim = params.head_dim;
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
  if constexpr (Reader::kScaled) {
    for (size_t i = begin; i < end; ++i) {
      scratch.key_scales[i] = reader.KeyScale(tile.first_token + i);
      scratch.value_scales[i] = reader.ValueScale(tile.first_token + i);
    }
    args.key_scales = scratch.key_scales;
    args.value_scales = scratch.value_scales;
  }
  if constexpr (Reader::kHasOffset) {
    for (size_t i = begin; i < end; ++i) {
      scratch.key_offsets[i] = reader.KeyOffset(tile.first_token + i);
      scratch.value_offsets[i] = reader.ValueOffset(tile.first_token + i);
    }
    args.key_offsets = scratch.key_offsets;
    args.value_offsets = scratch.value_offsets;
  }
  if (tile.weights != nullptr) {
    std::copy(tile.weights + begin, tile.weights + end, scratch.weights + begin);
    args.weights = scratch.weights;
  }
  for (size_t row = 0, count; row < rows; row += count) {
    count = NextRows(rows - row);
    const float* q = scratch.q + row * head_dim;
    float* scores = scratch.scores + row * kTileTokens;
    const auto score = [&](auto score_rows) HWY_ATTR {
      score_rows(d, reader, tile.first_token, begin, end, q, head_dim, scores);
    };
    switch (count) {
      case 4:
        score(ScoreRows<4, D, Reader>);
        break;
      case 3:
        score(ScoreRows<3, D, Reader>);
        break;
      case 2:
        score(ScoreRows<2, D, Reader>);
        break;
      default:
        score(ScoreRows<1, D, Reader>);
        break;
    }
  }
  const size_t lanes = hn::Lanes(d);
  const Columns columns{begin / lanes * lanes, (end + lanes - 1) / lanes * lanes};
  for (size_t row = 0; row < rows; ++row) {
    float* scores = scratch.scores + row * kTileTokens;
    const int64_t position = block.position(static_cast<int32_t>(row));
    PrepareScores(d, args, tile, columns, position, scratch.q_sums[row], scores);
    const TileEffect effect = SoftmaxRow(d, args, columns, scores, &scratch.states[row]);
    scratch.corrections[row] = effect.correction;
    scratch.offsets[row] = effect.offset;
  }
  for (size_t row = 0, count; row < rows; row += count) {
    count = NextRows(rows - row);
    const auto add = [&](auto add_rows) HWY_ATTR {
      add_rows(d,
               reader,
               tile.first_token,
               begin,
               end,
               head_dim,
               scratch.scores + row * kTileTokens,
               scratch.corrections + row,
               block.o + row * block.o_stride,
               block.o_stride);
    };
    switch (count) {
      case 4:
        add(AddRows<4, D, Reader>);
        break;
      case 3:
        add(AddRows<3, D, Reader>);
        break;
      case 2:
        add(AddRows<2, D, Reader>);
        break;
      default:
        add(AddRows<1, D, Reader>);
        break;
    }
  }
  if constexpr (Reader::kHasOffset) {
    for (size_t row = 0; row < rows; ++row) {
      float* o = block.o + row * block.o_stride;
      for (size_t i = 0; i < head_dim; i += lanes) {
        hn::StoreU(hn::Add(hn::LoadU(d, o + i), hn::Set(d, scratch.offsets[row])), d, o + i);
      }
    }
  }
}

template <class D>
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
    const auto attend = [&](const auto& reader) HWY_ATTR {
      UseCoordinates(block, reader.kRotated, scratch.q, &rotated);
      for (int32_t i = 0; i < NumTiles(view); ++i) {
        AttendTileFew(d, block, reader, TileOfView(view, block.kv_head, i), scratch);
      }
    };
    VisitReader(view, params.num_kv_heads, block.kv_head, params.head_dim, scratch.decoded, attend);
    FinishView(block, index, scratch.states);
  }
  UseCoordinates(block, /*rotate=*/false, scratch.q, &rotated);
  FinishRows(block, scratch.states);
}

void AttendFewOnTarget(const AttendBlock& block) {
  const hn::ScalableTag<float> widest;
  if (block.params->head_dim % hn::Lanes(widest) == 0) {
    AttendFewWith(widest, block);
  } else {
    AttendFewWith(hn::CappedTag<float, 8>(), block);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(AttendFewOnTarget);

void AttendFew(const AttendBlock& block) {
  VARVE_DCHECK(block.num_rows() <= kFewRows && block.params->head_dim % 8 == 0);
  HWY_DYNAMIC_DISPATCH(AttendFewOnTarget)(block);
}

size_t FewScratchFloats(const AttendPlan& /*plan*/, int32_t head_dim) {
  return kFewRows * (head_dim + kTileTokens) + 5 * kTileTokens + DecodedFloats(head_dim);
}

}  // namespace varve
#endif  // HWY_ONCE
