// Attend: plans the blocks, runs them on the team, merges their states in the order of the views.
#include "kernels/attend.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/attn_state.h"
#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_plan.h"
#include "proto/base/check.h"

#include "hwy/aligned_allocator.h"

namespace varve {
namespace {

// Floats that only grow.
class Arena {
 public:
  float* Floats(size_t count) {
    if (count > capacity_) {
      floats_ = hwy::AllocateAligned<float>(count);
      capacity_ = count;
    }
    return floats_.get();
  }

 private:
  hwy::AlignedFreeUniquePtr<float[]> floats_;
  size_t capacity_ = 0;
};

// Threads' scratch memories lie apart by whole cache lines.
constexpr size_t kLineFloats = 16;

size_t ThreadFloats(const AttendPlan& plan, int32_t head_dim) {
  const size_t floats =
      plan.few ? FewScratchFloats(plan, head_dim) : ManyScratchFloats(plan, head_dim);
  return (floats + kLineFloats - 1) / kLineFloats * kLineFloats;
}

// One state per block: o of rows_per_block rows, then as many lse.
size_t StateFloats(const AttendPlan& plan) {
  return plan.rows_per_block * (plan.o_stride + 1);
}

}  // namespace

struct AttendScratch::Impl {
  Arena threads;  // [num_threads, ThreadFloats]
  Arena states;   // [num_columns, num_splits, StateFloats]
  std::vector<size_t> split_begin;
};

AttendScratch::AttendScratch() : impl_(new Impl) {}
AttendScratch::~AttendScratch() {
  delete impl_;
}
AttendScratch::AttendScratch(AttendScratch&& other) noexcept
    : impl_(std::exchange(other.impl_, nullptr)) {}
AttendScratch& AttendScratch::operator=(AttendScratch&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

void AttendScratch::Reserve(int32_t num_queries,
                            int32_t num_qo_heads,
                            int32_t num_kv_heads,
                            int32_t head_dim,
                            int32_t /*page_tokens*/,
                            int num_threads) {
  impl_->split_begin.reserve(kTargetBlocks + 1);
  // A call of fewer queries can need more splits, or the other way to attend: room is made for both
  // of each.
  for (int32_t queries = num_queries; queries > 0; queries /= 2) {
    const AttendPlan plan = PlanAttend({queries, num_qo_heads, num_kv_heads, head_dim});
    impl_->threads.Floats(num_threads * ThreadFloats(plan, head_dim));
    impl_->states.Floats(plan.num_columns * plan.max_splits * StateFloats(plan));
  }
}

namespace {

AttendBlock BlockAt(const AttendParams& params,
                    const AttendPlan& plan,
                    const std::vector<size_t>& split_begin,
                    float* states,
                    size_t index) {
  // Blocks that follow each other read the same views, so that two threads share them in the cache.
  const size_t num_splits = split_begin.size() - 1;
  const size_t query_block = index % plan.num_query_blocks;
  const size_t split = index / plan.num_query_blocks % num_splits;
  const size_t kv_head = index / plan.num_query_blocks / num_splits;
  const size_t column = kv_head * plan.num_query_blocks + query_block;
  AttendBlock block;
  block.params = &params;
  block.kv_head = static_cast<int32_t>(kv_head);
  block.group_size = plan.group_size;
  block.first_query = static_cast<int32_t>(query_block) * plan.queries_per_block;
  block.num_queries = std::min(plan.queries_per_block,
                               static_cast<int32_t>(params.positions.size()) - block.first_query);
  block.view_begin = split_begin[split];
  block.view_end = split_begin[split + 1];
  block.o = states + (column * num_splits + split) * StateFloats(plan);
  block.lse = block.o + plan.rows_per_block * plan.o_stride;
  block.o_stride = plan.o_stride;
  return block;
}

// Merges the states of all splits of one column into (params.o, params.lse), in order.
void MergeColumn(const AttendParams& params,
                 const AttendPlan& plan,
                 size_t num_splits,
                 const float* states,
                 size_t column) {
  const size_t kv_head = column / plan.num_query_blocks;
  const size_t first_query = column % plan.num_query_blocks * plan.queries_per_block;
  const size_t num_queries =
      std::min<size_t>(plan.queries_per_block, params.positions.size() - first_query);
  for (size_t split = 0; split < num_splits; ++split) {
    const float* o = states + (column * num_splits + split) * StateFloats(plan);
    const float* lse = o + plan.rows_per_block * plan.o_stride;
    for (size_t row = 0; row < num_queries * plan.group_size; ++row) {
      const size_t query = first_query + row / plan.group_size;
      const size_t head = kv_head * plan.group_size + row % plan.group_size;
      const size_t at = query * params.num_qo_heads + head;
      MergeState(params.o + at * params.head_dim,
                 params.lse + at,
                 o + row * plan.o_stride,
                 lse[row],
                 params.head_dim);
    }
  }
}

// Copies what each block, of one view, found for one column into params.o_per_view.
void CopyColumn(const AttendParams& params,
                const AttendPlan& plan,
                const float* states,
                size_t column) {
  const size_t kv_head = column / plan.num_query_blocks;
  const size_t first_query = column % plan.num_query_blocks * plan.queries_per_block;
  const size_t num_queries =
      std::min<size_t>(plan.queries_per_block, params.positions.size() - first_query);
  for (size_t view = 0; view < params.views.size(); ++view) {
    const float* o = states + (column * params.views.size() + view) * StateFloats(plan);
    for (size_t row = 0; row < num_queries * plan.group_size; ++row) {
      const size_t query = first_query + row / plan.group_size;
      const size_t head = kv_head * plan.group_size + row % plan.group_size;
      const size_t at = (view * params.positions.size() + query) * params.num_qo_heads + head;
      std::copy_n(
          o + row * plan.o_stride, params.head_dim, params.o_per_view + at * params.head_dim);
    }
  }
}

}  // namespace

void Attend(const AttendParams& params, AttendScratch& scratch, ThreadTeam& team) {
  const auto num_queries = static_cast<int32_t>(params.positions.size());
  if (params.lse_per_view != nullptr) {
    std::fill_n(
        params.lse_per_view, params.views.size() * num_queries * params.num_qo_heads, -INFINITY);
  }
  if (num_queries == 0 || params.num_qo_heads == 0 || params.views.empty()) {
    return;
  }
  AttendScratch::Impl& impl = *scratch.impl();
  const AttendPlan plan =
      PlanAttend({num_queries, params.num_qo_heads, params.num_kv_heads, params.head_dim});
  if (params.o_per_view == nullptr) {
    SplitViews(params, plan.max_splits, &impl.split_begin);
  } else {
    VARVE_CHECK(params.lse_per_view != nullptr);
    impl.split_begin.resize(params.views.size() + 1);
    std::iota(impl.split_begin.begin(), impl.split_begin.end(), size_t{0});
  }
  const size_t num_splits = impl.split_begin.size() - 1;
  const size_t thread_floats = ThreadFloats(plan, params.head_dim);
  float* threads = impl.threads.Floats(team.num_threads() * thread_floats);
  float* states = impl.states.Floats(plan.num_columns * num_splits * StateFloats(plan));
  team.ParallelFor(plan.num_columns * num_splits, [&](size_t index, int thread) {
    AttendBlock block = BlockAt(params, plan, impl.split_begin, states, index);
    block.scratch = threads + thread * thread_floats;
    if (plan.few) {
      AttendFew(block);
    } else {
      AttendMany(block);
    }
  });
  if (params.o == nullptr && params.o_per_view == nullptr) {
    return;
  }
  team.ParallelFor(plan.num_columns, [&](size_t column, int /*thread*/) {
    if (params.o_per_view != nullptr) {
      CopyColumn(params, plan, states, column);
    } else {
      MergeColumn(params, plan, num_splits, states, column);
    }
  });
}

double AttendTolerance(CodecId codec) {
  switch (codec) {
    case CodecId::kInt8:
    case CodecId::kInt4:
    case CodecId::kInt3:
    case CodecId::kInt2:
    case CodecId::kRot4:
    case CodecId::kRot3:
    case CodecId::kRot2:
    case CodecId::kKivi4:
    case CodecId::kKivi2:
    case CodecId::kKivi4G32:
    case CodecId::kKivi2G32:
    case CodecId::kDeco4:
    case CodecId::kThink:
      return 3e-4;
    case CodecId::kKlt4:
    case CodecId::kKlt3:
    case CodecId::kKlt2:
    case CodecId::kKlt18:
    case CodecId::kLorc:
    case CodecId::kNuq4:
    case CodecId::kNuq3:
    case CodecId::kNuq2:
    case CodecId::kNuq4Sparse:
    case CodecId::kNuq3Sparse:
    case CodecId::kNuq2Sparse:
    case CodecId::kSkvq4:
    case CodecId::kSkvq2:
    case CodecId::kRvq8:
    case CodecId::kRvq4:
      return 2e-3;
    default:
      return 1e-5;
  }
}

int32_t NumTiles(const KvView& view) {
  return (view.num_tokens + kTileTokens - 1) / kTileTokens;
}

AttendTile TileOfView(const KvView& view, int32_t kv_head, int32_t index) {
  const int32_t offset = index * kTileTokens;
  const int64_t at = int64_t{kv_head} * view.num_tokens + offset;
  AttendTile tile;
  tile.view = &view;
  tile.first_token = view.first_token + offset;
  tile.num_tokens = std::min(kTileTokens, view.num_tokens - offset);
  tile.first_position = view.first_position + tile.first_token;
  tile.indices = view.token_indices == nullptr ? nullptr : view.token_indices + at;
  tile.weights = view.token_weights == nullptr ? nullptr : view.token_weights + at;
  return tile;
}

AttendTile::Range AttendTile::Visible(int64_t window, int64_t position) const {
  if (indices != nullptr) {
    return {0, num_tokens};
  }
  const auto clamp = [this](int64_t column) {
    return static_cast<int32_t>(std::clamp<int64_t>(column, 0, num_tokens));
  };
  return {window > 0 ? clamp(position - window + 1 - first_position) : 0,
          clamp(position + 1 - first_position)};
}

bool AttendTile::Sees(int64_t window, int64_t position, int32_t index) const {
  const int64_t at = view->first_position + indices[index];
  return at <= position && (window <= 0 || at > position - window);
}

}  // namespace varve
