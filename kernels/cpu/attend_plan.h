// How one call of Attend is cut into blocks: (kv head) x (block of queries) x (split of the views).
// Every block yields a state; the states of the splits are merged in order. The cut depends on the
// shapes alone, never on the number of threads, and so does the result.
//
// The rows of a block are the query heads of one kv head, for each of its queries: they share every
// byte of K and V read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/attend.h"

namespace varve {

// Tokens that are scored before their values are added: the unit of the online softmax.
inline constexpr int32_t kTileTokens = 128;
inline constexpr int32_t kMaxHeadDim = 256;
// Up to this many rows a block is served from the encoded bytes (attend_few.cc), beyond by widened
// tiles (attend_many.cc).
inline constexpr int32_t kFewRows = 16;
// ... if head_dim is a multiple of this, as it is in almost all models: its loops have no tails.
inline constexpr int32_t kFewHeadDims = 64;
// Rows of a block of many: queries, scores and sums of a tile stay in the L2 cache.
inline constexpr int32_t kManyRows = 192;
// Rows are padded to this many floats so that whole vectors can be stored: the widest panel of any
// target.
inline constexpr int32_t kRowPadding = 32;

// Splits are made so that about this many blocks can run at once, but none is of less than
// kMinSplitTokens.
inline constexpr size_t kTargetBlocks = 128;
inline constexpr int64_t kMinSplitTokens = 512;

struct AttendShape {
  int32_t num_queries;
  int32_t num_qo_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
};

struct AttendPlan {
  bool few;            // true: attend_few.cc
  int32_t group_size;  // query heads per kv head
  int32_t queries_per_block;
  size_t num_query_blocks;
  size_t rows_per_block;  // queries_per_block * group_size
  size_t o_stride;        // floats from one row of a block's o to the next
  size_t num_columns;  // num_kv_heads * num_query_blocks: what is left of the blocks after merging
                       // splits
  size_t max_splits;   // per column
};

// REQUIRES: num_qo_heads a multiple of num_kv_heads, 1 <= head_dim <= kMaxHeadDim.
AttendPlan PlanAttend(const AttendShape& shape);

// Fills split_begin with the first view of each split and, last, the end: views [split_begin[i],
// split_begin[i + 1]). Views that no query of the call can see are left out at both ends.
void SplitViews(const AttendParams& params, size_t max_splits, std::vector<size_t>* split_begin);

// True if no query at positions [first, last] sees a token of the view.
bool IsHidden(const KvView& view, int64_t window, int64_t first_position, int64_t last_position);

}  // namespace varve
