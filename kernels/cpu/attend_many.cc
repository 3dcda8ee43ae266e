// Attention of many rows (prefill): each tile of K and V is widened and packed once per block, then
// it is two matrix products with the online softmax between them: of 16-bit integers where the
// codec has codes of at most 8 bits, else of floats.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend_many.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_tile-inl.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/many_code_tile-inl.h"
#include "kernels/cpu/many_scratch-inl.h"
#include "proto/base/check.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Key `token` of the run as floats.
template <class Reader>
HWY_INLINE void WidenKey(const Reader& reader, size_t token, size_t head_dim, float* out) {
  const GemmTag d;
  const auto scale = hn::Set(d, reader.KeyScale(token));
  const auto offset = hn::Set(d, reader.KeyOffset(token));
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    auto key = reader.Key(d, token, i);
    if constexpr (Reader::kScaled) {
      key = hn::Mul(key, scale);
    }
    if constexpr (Reader::kHasOffset) {
      key = hn::Add(key, offset);
    }
    hn::StoreU(key, d, out + i);
  }
  for (; i < head_dim; ++i) {
    out[i] = reader.KeyScalar(token, i) * reader.KeyScale(token) + reader.KeyOffset(token);
  }
}

// Values of tokens [begin, end) of the tile into panels of dimensions; dimensions beyond head_dim
// are zero.
template <class Reader>
void PackValues(const Reader& reader,
                size_t token,
                size_t begin,
                size_t end,
                size_t head_dim,
                float* panels) {
  const GemmTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t width = PanelWidth();
  const size_t panel_floats = kTileTokens * width;
  for (size_t t = begin; t < end; ++t) {
    const float scale = reader.ValueScale(token + t);
    const float offset = reader.ValueOffset(token + t);
    size_t i = 0;
    for (; i + lanes <= head_dim; i += lanes) {
      auto value = reader.Value(d, token + t, i);
      if constexpr (Reader::kScaled) {
        value = hn::Mul(value, hn::Set(d, scale));
      }
      if constexpr (Reader::kHasOffset) {
        value = hn::Add(value, hn::Set(d, offset));
      }
      hn::StoreU(value, d, panels + i / width * panel_floats + t * width + i % width);
    }
    for (; i % width != 0 || i < head_dim; ++i) {
      const float value = i < head_dim ? reader.ValueScalar(token + t, i) * scale + offset : 0.0F;
      panels[i / width * panel_floats + t * width + i % width] = value;
    }
  }
}

// scores[row, begin .. end) = q . k, panel by panel; begin is a multiple of the panel width.
template <class Reader>
void ScoreTile(const AttendBlock& block,
               const Reader& reader,
               size_t token,
               size_t begin,
               size_t end,
               ManyScratch& scratch) {
  const size_t head_dim = block.params->head_dim;
  const size_t width = PanelWidth();
  for (size_t column = begin; column < end; column += width) {
    const size_t num_keys = std::min(width, end - column);
    for (size_t i = 0; i < num_keys; ++i) {
      WidenKey(reader, token + column + i, head_dim, scratch.wide + i * head_dim);
    }
    PackPanel(scratch.wide, head_dim, num_keys, head_dim, scratch.key_panel);
    MultiplyPanel<Epilogue::kStore>(scratch.q,
                                    head_dim,
                                    block.num_rows(),
                                    scratch.key_panel,
                                    head_dim,
                                    nullptr,
                                    scratch.scores + column,
                                    kTileTokens);
  }
}

template <class Reader>
void AddFloatTile(const AttendBlock& block,
                  const Reader& reader,
                  size_t token,
                  size_t begin,
                  size_t end,
                  ManyScratch& scratch) {
  const size_t head_dim = block.params->head_dim;
  const size_t width = PanelWidth();
  PackValues(reader, token, begin, end, head_dim, scratch.value_panels);
  for (size_t i = 0; i < head_dim; i += width) {
    const float* panel = scratch.value_panels + i * kTileTokens + begin * width;
    MultiplyPanel<Epilogue::kScaleAdd>(scratch.scores + begin,
                                       kTileTokens,
                                       block.num_rows(),
                                       panel,
                                       end - begin,
                                       scratch.corrections,
                                       block.o + i,
                                       block.o_stride);
  }
}

template <bool kVnni, class Reader>
void AttendTileMany(const AttendBlock& block,
                    const Reader& reader,
                    const AttendTile& tile,
                    ManyScratch& scratch) {
  const AttendParams& params = *block.params;
  const size_t width = PanelWidth();
  const int64_t first = params.positions[block.first_query];
  const int64_t last = params.positions[block.first_query + block.num_queries - 1];
  // 1. Columns that some row sees, from a whole panel on.
  const size_t begin = tile.Visible(params.window, first).begin / width * width;
  const size_t end = tile.Visible(params.window, last).end;
  if (tile.Visible(params.window, first).begin >= static_cast<int32_t>(end)) {
    return;
  }
  const Columns columns{begin, (end + width - 1) / width * width};
  // 2. Scores, then weights of the values.
  SoftmaxArgs args;
  args.softcap = params.logit_softcap;
  args.window = params.window;
  args.per_view = params.lse_per_view != nullptr;
  if (tile.weights != nullptr) {
    std::copy(tile.weights + begin, tile.weights + end, scratch.weights + begin);
    args.weights = scratch.weights;
  }
  if constexpr (Reader::kIsCode) {
    LoadCodeParams(reader, tile.first_token, begin, end, columns, scratch);
    args.key_scales = scratch.key_scales;
    args.value_scales = scratch.value_scales;
    if constexpr (Reader::kHasOffset) {
      args.key_offsets = scratch.key_offsets;
      args.value_offsets = scratch.value_offsets;
    }
    ScoreCodeTile<kVnni>(block, reader, tile.first_token, begin, end, scratch);
  } else {
    reader.Prepare(tile.first_token + begin, end - begin);
    ScoreTile(block, reader, tile.first_token, begin, end, scratch);
  }
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    float* scores = scratch.scores + row * kTileTokens;
    args.score_factor = Reader::kIsCode ? scratch.q_factors[row] : 1.0F;
    const float q_sum = Reader::kIsCode ? scratch.q_sums[row] : 0.0F;
    const float largest =
        PrepareScores(GemmTag(), args, tile, columns, block.position(row), q_sum, scores);
    const TileEffect effect =
        SoftmaxRow(GemmTag(), args, columns, largest, scores, &scratch.states[row]);
    scratch.corrections[row] = effect.correction;
    if constexpr (Reader::kIsCode) {
      scratch.weight_factors[row] = QuantizeWeights(
          scores, columns, effect.largest, scratch.weight_codes + row * kTileTokens);
    }
    scratch.offsets[row] = effect.offset;
  }
  // 3. Values, if they are wanted.
  if (params.o == nullptr && params.o_per_view == nullptr) {
    return;
  }
  if constexpr (Reader::kIsCode) {
    AddCodeTile<kVnni>(block, reader, tile.first_token, end, columns, scratch);
  } else {
    AddFloatTile(block, reader, tile.first_token, begin, end, scratch);
  }
}

template <bool kVnni>
void AttendManyWith(const AttendBlock& block) {
  const AttendParams& params = *block.params;
  ManyScratch scratch;
  LayOutManyScratch(block.num_rows(), params.head_dim, block.o_stride, block.scratch, &scratch);
  std::fill(scratch.states, scratch.states + block.num_rows(), RowState());
  // Read to the end of the last vector, used only up to the last token: must be numbers.
  std::fill(scratch.weights, scratch.weights + kTileTokens, 0.0F);
  GatherQueries(block, scratch.q);
  std::fill(block.o, block.o + block.num_rows() * block.o_stride, 0.0F);
  Coordinates coordinates;
  for (size_t index = block.view_begin; index < block.view_end; ++index) {
    const KvView& view = params.views[index];
    const auto attend = [&](const auto& reader) HWY_ATTR {
      scratch.has_codes = scratch.has_codes && coordinates.queries == reader.keys_rotated();
      UseCoordinates(
          block, {reader.keys_rotated(), reader.values_rotated()}, scratch.q, &coordinates);
      if constexpr (std::decay_t<decltype(reader)>::kIsCode) {
        UseCodeQueries(block, scratch);
      }
      for (int32_t i = 0; i < NumTiles(view); ++i) {
        AttendTileMany<kVnni>(block, reader, TileOfView(view, block.kv_head, i), scratch);
      }
    };
    VisitReader(view, params.num_kv_heads, block.kv_head, params.head_dim, scratch.decoded, attend);
    FinishView(block, index, scratch.states);
  }
  UseCoordinates(block, {}, scratch.q, &coordinates);
  FinishRows(block, scratch.states);
}

void AttendManyOnTarget(const AttendBlock& block) {
  if constexpr (HWY_TARGET == HWY_AVX3) {
    if (HasVnni()) {
      AttendManyWith<true>(block);
      return;
    }
  }
  AttendManyWith<false>(block);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(AttendManyOnTarget);

void AttendMany(const AttendBlock& block) {
  HWY_DYNAMIC_DISPATCH(AttendManyOnTarget)(block);
}

size_t ManyScratchFloats(const AttendPlan& plan, int32_t head_dim) {
  HWY_STATIC_DISPATCH(ManyScratch) unused;
  return HWY_STATIC_DISPATCH(LayOutManyScratch)(
      plan.rows_per_block, head_dim, plan.o_stride, nullptr, &unused);
}

}  // namespace varve
#endif  // HWY_ONCE
