#include "kernels/cpu/attend_plan.h"

#include <algorithm>

#include "proto/base/check.h"

namespace varve {

AttendPlan PlanAttend(const AttendShape& shape) {
  VARVE_CHECK(shape.num_kv_heads > 0 && shape.num_qo_heads % shape.num_kv_heads == 0);
  VARVE_CHECK(shape.head_dim >= 1 && shape.head_dim <= kMaxHeadDim);
  AttendPlan plan{};
  plan.group_size = shape.num_qo_heads / shape.num_kv_heads;
  plan.few = shape.num_queries * plan.group_size <= kFewRows && shape.head_dim % kFewHeadDims == 0;
  plan.queries_per_block =
      plan.few ? shape.num_queries
               : std::min(shape.num_queries, std::max(1, kManyRows / plan.group_size));
  plan.num_query_blocks = (shape.num_queries + plan.queries_per_block - 1) / plan.queries_per_block;
  plan.rows_per_block = static_cast<size_t>(plan.queries_per_block) * plan.group_size;
  plan.o_stride = (shape.head_dim + kRowPadding - 1) / kRowPadding * kRowPadding;
  plan.num_columns = shape.num_kv_heads * plan.num_query_blocks;
  plan.max_splits = std::max<size_t>(1, kTargetBlocks / plan.num_columns);
  return plan;
}

bool IsHidden(const KvView& view, int64_t window, int64_t first_position, int64_t last_position) {
  if (view.num_tokens == 0) {
    return true;
  }
  if (view.token_indices != nullptr) {
    return false;  // the kept tokens may lie anywhere: the mask decides
  }
  const int64_t first_token = view.first_position + view.first_token;
  const int64_t last_token = first_token + view.num_tokens - 1;
  return first_token > last_position || (window > 0 && last_token <= first_position - window);
}

void SplitViews(const AttendParams& params, size_t max_splits, std::vector<size_t>* split_begin) {
  const auto is_hidden = [&params](const KvView& view) {
    return IsHidden(view, params.window, params.positions.front(), params.positions.back());
  };
  size_t begin = 0;
  size_t end = params.views.size();
  while (begin < end && is_hidden(params.views[begin])) {
    ++begin;
  }
  while (begin < end && is_hidden(params.views[end - 1])) {
    --end;
  }
  int64_t num_tokens = 0;
  for (size_t i = begin; i < end; ++i) {
    num_tokens += params.views[i].num_tokens;
  }
  const auto splits = static_cast<int64_t>(max_splits);
  const int64_t split_tokens = std::max(kMinSplitTokens, (num_tokens + splits - 1) / splits);
  split_begin->clear();
  split_begin->push_back(begin);
  int64_t tokens = 0;
  for (size_t i = begin; i < end; ++i) {
    if (tokens >= split_tokens) {
      split_begin->push_back(i);
      tokens = 0;
    }
    tokens += params.views[i].num_tokens;
  }
  split_begin->push_back(end);
}

}  // namespace varve
