// What attend_few.cc and attend_many.cc share, per target: the encoded rows in registers and the
// online softmax.
#if defined(VARVE_KERNELS_CPU_ATTEND_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_ATTEND_TILE_INL_H_
#undef VARVE_KERNELS_CPU_ATTEND_TILE_INL_H_
#else
#define VARVE_KERNELS_CPU_ATTEND_TILE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/readers-inl.h"
#include "kernels/cpu/rotate-inl.h"

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The softmax of one row so far: exponentials are relative to `max`. view_*: the current view
// alone.
struct RowState {
  float max = -INFINITY;
  float sum = 0.0F;
  float view_max = -INFINITY;
  float view_sum = 0.0F;
};

// lse of exponentials that sum up to `sum` relative to `max`.
inline float LogSum(float max, float sum) {
  return sum > 0.0F ? max + std::log(sum) : -INFINITY;
}

// What one row's scores of a tile go through. Arrays are [kTileTokens] and readable to the end of
// the last vector.
struct SoftmaxArgs {
  const float* key_scales = nullptr;     // multiply the scores; null: ones
  float score_factor = 1.0F;             // likewise, if there are key_scales
  const float* key_offsets = nullptr;    // times the sum of the query, added to the scores
  const float* value_scales = nullptr;   // multiply the weights of the values; null: ones
  const float* value_offsets = nullptr;  // times their weights, added to every dimension
  const float* weights = nullptr;        // of pruned pages, multiply the exponentials; null: ones
  float softcap = 0.0F;
  int64_t window = 0;
  bool per_view = false;  // also keep RowState::view_*
};

// The columns of a tile that are computed, [first, last), both multiples of the vector length.
struct Columns {
  size_t first;
  size_t last;
};

// Scales and caps the scores of one row, whose query adds up to `q_sum`, and makes those that the
// query at `position` does not see -infinity. Returns the largest.
template <class D>
HWY_INLINE float PrepareScores(D d,
                               const SoftmaxArgs& args,
                               const AttendTile& tile,
                               Columns columns,
                               int64_t position,
                               float q_sum,
                               float* scores) {
  const size_t lanes = hn::Lanes(d);
  auto largest = hn::Set(d, -INFINITY);
  const auto for_scores = [&](const auto& change) HWY_ATTR {
    largest = hn::Set(d, -INFINITY);
    for (size_t i = columns.first; i < columns.last; i += lanes) {
      const auto score = change(hn::LoadU(d, scores + i), i);
      largest = hn::Max(largest, score);
      hn::StoreU(score, d, scores + i);
    }
  };
  const auto find_largest = [&]() HWY_ATTR {
    largest = hn::Set(d, -INFINITY);
    for (size_t i = columns.first; i < columns.last; i += lanes) {
      largest = hn::Max(largest, hn::LoadU(d, scores + i));
    }
  };
  const auto factor = hn::Set(d, args.score_factor);
  if (args.key_scales != nullptr && args.key_offsets != nullptr) {
    const auto sum = hn::Set(d, q_sum);
    for_scores([&](auto score, size_t i) HWY_ATTR {
      const auto scale = hn::Mul(factor, hn::LoadU(d, args.key_scales + i));
      return hn::MulAdd(sum, hn::LoadU(d, args.key_offsets + i), hn::Mul(score, scale));
    });
  } else if (args.key_scales != nullptr) {
    for_scores([&](auto score, size_t i) HWY_ATTR {
      return hn::Mul(score, hn::Mul(factor, hn::LoadU(d, args.key_scales + i)));
    });
  } else if (args.softcap <= 0.0F) {
    find_largest();
  }
  if (args.softcap > 0.0F) {
    const auto cap = hn::Set(d, args.softcap);
    const auto inverse = hn::Set(d, 1.0F / args.softcap);
    for_scores([&](auto score, size_t /*i*/)
                   HWY_ATTR { return hn::Mul(cap, hn::Tanh(d, hn::Mul(score, inverse))); });
  }
  const AttendTile::Range range = tile.Visible(args.window, position);
  const size_t begin = std::clamp<size_t>(range.begin, columns.first, columns.last);
  const size_t end = std::clamp<size_t>(range.end, columns.first, columns.last);
  if (begin > columns.first || end < columns.last || tile.indices != nullptr) {
    std::fill(scores + columns.first, scores + begin, -INFINITY);
    std::fill(scores + end, scores + columns.last, -INFINITY);
    if (tile.indices != nullptr) {
      for (size_t i = begin; i < end; ++i) {
        if (!tile.Sees(args.window, position, static_cast<int32_t>(i))) {
          scores[i] = -INFINITY;
        }
      }
    }
    find_largest();
  }
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

// What a tile does to a row's sums.
struct TileEffect {
  float correction = 1.0F;  // the factor for what the row has summed up before
  float offset = 0.0F;      // to be added to every dimension, afterwards
  float largest = 0.0F;     // magnitude of the weights
};

// Turns prepared scores, of which `tile_max` is the largest, into the weights of the values,
// relative to the row's new maximum.
template <class D>
HWY_INLINE TileEffect SoftmaxRow(D d,
                                 const SoftmaxArgs& args,
                                 Columns columns,
                                 float tile_max,
                                 float* scores,
                                 RowState* state) {
  const size_t lanes = hn::Lanes(d);
  if (tile_max == -INFINITY) {
    std::fill(scores + columns.first, scores + columns.last, 0.0F);
    return {};
  }
  const float new_max = std::max(state->max, tile_max);
  // The lse of a view alone must not drown in the maximum of other views: then exponentials are
  // relative to the tile.
  const float reference = args.per_view ? tile_max : new_max;
  const float factor = args.per_view ? std::exp(tile_max - new_max) : 1.0F;
  auto sum_lanes = hn::Zero(d);
  auto offset_lanes = hn::Zero(d);
  auto largest_lanes = hn::Zero(d);
  for (size_t i = columns.first; i < columns.last; i += lanes) {
    auto p = FastExp(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, reference)));
    if (args.weights != nullptr) {
      p = hn::Mul(p, hn::LoadU(d, args.weights + i));
    }
    sum_lanes = hn::Add(sum_lanes, p);
    if (args.per_view) {
      p = hn::Mul(p, hn::Set(d, factor));
    }
    if (args.value_offsets != nullptr) {
      offset_lanes = hn::MulAdd(p, hn::LoadU(d, args.value_offsets + i), offset_lanes);
    }
    if (args.value_scales != nullptr) {
      p = hn::Mul(p, hn::LoadU(d, args.value_scales + i));
    }
    largest_lanes = hn::Max(largest_lanes, hn::Abs(p));
    hn::StoreU(p, d, scores + i);
  }
  const float tile_sum = SumLanes(d, sum_lanes);
  // Most tiles do not raise the maximum.
  const float correction = new_max == state->max ? 1.0F : std::exp(state->max - new_max);
  state->sum = state->sum * correction + tile_sum * factor;
  state->max = new_max;
  if (args.per_view) {
    const float view_max = std::max(state->view_max, tile_max);
    state->view_sum = state->view_sum * std::exp(state->view_max - view_max) +
                      tile_sum * std::exp(tile_max - view_max);
    state->view_max = view_max;
  }
  return {.correction = correction,
          .offset = args.value_offsets == nullptr ? 0.0F : SumLanes(d, offset_lanes),
          .largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes))};
}

// Which of a block's rows are in rotated coordinates.
struct Coordinates {
  bool queries = false;
  bool sums = false;
};

// Turns the queries and the sums of a block into the coordinates of the next view's keys and
// values.
inline void UseCoordinates(const AttendBlock& block, Coordinates next, float* q, Coordinates* now) {
  const size_t head_dim = block.params->head_dim;
  const auto turn = [&](bool rotate, bool is_rotated, float* rows, size_t stride) {
    for (int32_t row = 0; row < block.num_rows() && rotate != is_rotated; ++row) {
      if (rotate) {
        RotateRow(rows + row * stride, head_dim);
      } else {
        UnrotateRow(rows + row * stride, head_dim);
      }
    }
  };
  turn(next.queries, now->queries, q, head_dim);
  turn(next.sums, now->sums, block.o, block.o_stride);
  *now = next;
}

// Stores the block's result: rows divided by their sums, and lse.
inline void FinishRows(const AttendBlock& block, const RowState* states) {
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const float sum = states[row].sum;
    const float factor = sum > 0.0F ? 1.0F / sum : 0.0F;
    float* o = block.o + row * block.o_stride;
    for (int32_t i = 0; i < block.params->head_dim; ++i) {
      o[i] *= factor;
    }
    block.lse[row] = LogSum(states[row].max, sum);
  }
}

// After the last tile of a view: its own lse, if asked for.
inline void FinishView(const AttendBlock& block, size_t view, RowState* states) {
  const AttendParams& params = *block.params;
  if (params.lse_per_view == nullptr) {
    return;
  }
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const size_t query = block.first_query + row / block.group_size;
    const size_t head = block.kv_head * block.group_size + row % block.group_size;
    const size_t at = (view * params.positions.size() + query) * params.num_qo_heads + head;
    params.lse_per_view[at] = LogSum(states[row].view_max, states[row].view_sum);
    states[row].view_max = -INFINITY;
    states[row].view_sum = 0.0F;
  }
}

// Copies the block's queries, scaled, into [num_rows, head_dim].
inline void GatherQueries(const AttendBlock& block, float* out) {
  const AttendParams& params = *block.params;
  const size_t head_dim = params.head_dim;
  for (int32_t row = 0; row < block.num_rows(); ++row) {
    const size_t query = block.first_query + row / block.group_size;
    const size_t head = block.kv_head * block.group_size + row % block.group_size;
    const float* q = params.q + query * params.q_stride + head * head_dim;
    for (size_t i = 0; i < head_dim; ++i) {
      out[row * head_dim + i] = q[i] * params.sm_scale;
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
