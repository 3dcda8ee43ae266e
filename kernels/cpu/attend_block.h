// One block of Attend (attend_plan.h), and the two ways to compute it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attend.h"
#include "kernels/codec/row_block.h"
#include "kernels/cpu/attend_plan.h"

namespace varve {

// Row r is query first_query + r / group_size, query head kv_head * group_size + r % group_size.
struct AttendBlock {
  const AttendParams* params = nullptr;
  int32_t kv_head = 0;
  int32_t group_size = 0;
  int32_t first_query = 0;
  int32_t num_queries = 0;
  size_t view_begin = 0;
  size_t view_end = 0;

  float* o = nullptr;    // [num_rows(), o_stride], out
  float* lse = nullptr;  // [num_rows()], out
  size_t o_stride = 0;

  float* scratch = nullptr;  // of this thread, FewScratchFloats() or ManyScratchFloats()

  int32_t num_rows() const { return num_queries * group_size; }
  int64_t position(int32_t row) const { return params->positions[first_query + row / group_size]; }
};

// Attends from the encoded bytes, which are read once for all rows. REQUIRES: at most kFewRows
// rows, head_dim % kFewHeadDims == 0.
void AttendFew(const AttendBlock& block);
size_t FewScratchFloats(const AttendPlan& plan, int32_t head_dim);

// Widens each tile of K and V to fp32 once and multiplies in registers.
void AttendMany(const AttendBlock& block);
size_t ManyScratchFloats(const AttendPlan& plan, int32_t head_dim);

// Room for a tile of keys and values that a codec decodes.
inline size_t DecodedFloats(int32_t head_dim) {
  return size_t{2} * kTileTokens * static_cast<size_t>(head_dim);
}

// Consecutive tokens of one view, for one kv head.
struct AttendTile {
  const KvView* view;
  int32_t first_token;     // of the run
  int32_t num_tokens;      // <= kTileTokens
  int64_t first_position;  // of first_token (views without token_indices)
  const int32_t* indices;  // [num_tokens] or null
  const float* weights;    // [num_tokens] or null

  // The tokens [begin, end) of the tile that a query at `position` may see; token_indices are not
  // looked at.
  struct Range {
    int32_t begin;
    int32_t end;
  };
  Range Visible(int64_t window, int64_t position) const;
  // True if the query sees token `index`; for views with token_indices.
  bool Sees(int64_t window, int64_t position, int32_t index) const;
};

// Tile number `index` of the view: its tokens [index * kTileTokens, ...).
AttendTile TileOfView(const KvView& view, int32_t kv_head, int32_t index);
int32_t NumTiles(const KvView& view);

// Where the rows of a kv head lie in a view of a codec that codes each row by itself.
inline RowLayout LayoutOfView(const RowFormat& format, const KvView& view, size_t kv_head) {
  const auto capacity = static_cast<size_t>(view.token_capacity);
  return view.keys_only ? KeyLayoutOfHead(format, kv_head, capacity)
                        : RowLayoutOfHead(format, kv_head, capacity);
}

}  // namespace varve
