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
#include <cstring>

#include "kernels/codec/exact_block.h"
#include "kernels/codec/int8_block.h"
#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/widen-inl.h"

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Readers: the rows of one kv head of an encoded run. Key and Value load Lanes(d) numbers of token
// `token` from dimension `i` on; the number meant is that times the token's scale, if kScaled. The
// bytes need no alignment.
template <DType kDType>
class ExactReader {
 public:
  static constexpr bool kScaled = false;

  ExactReader(const KvView& view, size_t kv_head, size_t head_dim)
      : keys_(view.encoded.data() +
              ExactKeyOffset(kv_head, view.token_capacity, head_dim) * kStoredBytes<kDType>),
        values_(view.encoded.data() +
                ExactValueOffset(kv_head, view.token_capacity, head_dim) * kStoredBytes<kDType>),
        row_bytes_(head_dim * kStoredBytes<kDType>) {}

  template <class D>
  HWY_INLINE hn::Vec<D> Key(D d, size_t token, size_t i) const {
    return LoadWide<kDType>(d, keys_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  template <class D>
  HWY_INLINE hn::Vec<D> Value(D d, size_t token, size_t i) const {
    return LoadWide<kDType>(d, values_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  float KeyScalar(size_t token, size_t i) const {
    return LoadWideScalar<kDType>(keys_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  float ValueScalar(size_t token, size_t i) const {
    return LoadWideScalar<kDType>(values_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  float KeyScale(size_t /*token*/) const { return 1.0F; }
  float ValueScale(size_t /*token*/) const { return 1.0F; }

 private:
  const std::byte* keys_;
  const std::byte* values_;
  size_t row_bytes_;
};

class Int8Reader {
 public:
  static constexpr bool kScaled = true;

  Int8Reader(const KvView& view, size_t kv_head, size_t head_dim)
      : bytes_(view.encoded.data()),
        at_(Int8LayoutOfHead(kv_head, view.token_capacity, head_dim)),
        head_dim_(head_dim) {}

  template <class D>
  HWY_INLINE hn::Vec<D> Key(D d, size_t token, size_t i) const {
    return Load(d, bytes_ + at_.k_codes + token * head_dim_ + i);
  }
  template <class D>
  HWY_INLINE hn::Vec<D> Value(D d, size_t token, size_t i) const {
    return Load(d, bytes_ + at_.v_codes + token * head_dim_ + i);
  }
  float KeyScalar(size_t token, size_t i) const {
    return static_cast<int8_t>(bytes_[at_.k_codes + token * head_dim_ + i]);
  }
  float ValueScalar(size_t token, size_t i) const {
    return static_cast<int8_t>(bytes_[at_.v_codes + token * head_dim_ + i]);
  }
  float KeyScale(size_t token) const { return Scale(at_.k_scales + token * sizeof(uint16_t)); }
  float ValueScale(size_t token) const { return Scale(at_.v_scales + token * sizeof(uint16_t)); }

 private:
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* codes) {
    const hn::Rebind<int8_t, D> d8;
    const hn::RebindToSigned<D> d32;
    const auto code = hn::LoadU(d8, reinterpret_cast<const int8_t*>(codes));
    return hn::ConvertTo(d, hn::PromoteTo(d32, code));
  }
  float Scale(size_t offset) const {
    uint16_t bits;
    std::memcpy(&bits, bytes_ + offset, sizeof(bits));
    return Bf16ToFloat(bits);
  }

  const std::byte* bytes_;
  Int8HeadLayout at_;
  size_t head_dim_;
};

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
  const float* key_scales = nullptr;    // multiply the scores; null: ones
  const float* value_scales = nullptr;  // multiply the weights of the values; null: ones
  const float* weights = nullptr;       // of pruned pages, multiply the exponentials; null: ones
  float softcap = 0.0F;
  int64_t window = 0;
  bool per_view = false;  // also keep RowState::view_*
};

// The columns of a tile that are computed, [first, last), both multiples of the vector length.
struct Columns {
  size_t first;
  size_t last;
};

// Scales and caps the scores of one row, and makes those that the query at `position` does not see
// -infinity.
template <class D>
HWY_INLINE void PrepareScores(D d,
                              const SoftmaxArgs& args,
                              const AttendTile& tile,
                              Columns columns,
                              int64_t position,
                              float* scores) {
  if (args.key_scales != nullptr) {
    for (size_t i = columns.first; i < columns.last; i += hn::Lanes(d)) {
      const auto scale = hn::LoadU(d, args.key_scales + i);
      hn::StoreU(hn::Mul(hn::LoadU(d, scores + i), scale), d, scores + i);
    }
  }
  if (args.softcap > 0.0F) {
    const auto cap = hn::Set(d, args.softcap);
    const auto inverse = hn::Set(d, 1.0F / args.softcap);
    for (size_t i = columns.first; i < columns.last; i += hn::Lanes(d)) {
      const auto bent = hn::Tanh(d, hn::Mul(hn::LoadU(d, scores + i), inverse));
      hn::StoreU(hn::Mul(cap, bent), d, scores + i);
    }
  }
  const AttendTile::Range range = tile.Visible(args.window, position);
  const size_t begin = std::clamp<size_t>(range.begin, columns.first, columns.last);
  const size_t end = std::clamp<size_t>(range.end, columns.first, columns.last);
  std::fill(scores + columns.first, scores + begin, -INFINITY);
  std::fill(scores + end, scores + columns.last, -INFINITY);
  if (tile.indices != nullptr) {
    for (size_t i = begin; i < end; ++i) {
      if (!tile.Sees(args.window, position, static_cast<int32_t>(i))) {
        scores[i] = -INFINITY;
      }
    }
  }
}

// Turns prepared scores into the weights of the values, relative to the row's new maximum. Returns
// the factor for what the row has summed up before.
template <class D>
HWY_INLINE float SoftmaxRow(D d,
                            const SoftmaxArgs& args,
                            Columns columns,
                            float* scores,
                            RowState* state) {
  const size_t lanes = hn::Lanes(d);
  auto max_lanes = hn::Set(d, -INFINITY);
  for (size_t i = columns.first; i < columns.last; i += lanes) {
    max_lanes = hn::Max(max_lanes, hn::LoadU(d, scores + i));
  }
  const float tile_max = hn::GetLane(hn::MaxOfLanes(d, max_lanes));
  if (tile_max == -INFINITY) {
    std::fill(scores + columns.first, scores + columns.last, 0.0F);
    return 1.0F;
  }
  const float new_max = std::max(state->max, tile_max);
  // The lse of a view alone must not drown in the maximum of other views: then exponentials are
  // relative to the tile.
  const float reference = args.per_view ? tile_max : new_max;
  const float factor = args.per_view ? std::exp(tile_max - new_max) : 1.0F;
  auto sum_lanes = hn::Zero(d);
  for (size_t i = columns.first; i < columns.last; i += lanes) {
    auto p = FastExp(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, reference)));
    if (args.weights != nullptr) {
      p = hn::Mul(p, hn::LoadU(d, args.weights + i));
    }
    sum_lanes = hn::Add(sum_lanes, p);
    if (args.per_view) {
      p = hn::Mul(p, hn::Set(d, factor));
    }
    if (args.value_scales != nullptr) {
      p = hn::Mul(p, hn::LoadU(d, args.value_scales + i));
    }
    hn::StoreU(p, d, scores + i);
  }
  const float tile_sum = SumLanes(d, sum_lanes);
  const float correction = std::exp(state->max - new_max);
  state->sum = state->sum * correction + tile_sum * factor;
  state->max = new_max;
  if (args.per_view) {
    const float view_max = std::max(state->view_max, tile_max);
    state->view_sum = state->view_sum * std::exp(state->view_max - view_max) +
                      tile_sum * std::exp(tile_max - view_max);
    state->view_max = view_max;
  }
  return correction;
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
