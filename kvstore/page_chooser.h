// Chooses the pages that a step reads of a layer, where not all are read: by ClusterKV (2412.03213)
// with whole pages in place of clusters.
//
// A kv head scores a page by the largest product of a query of the step, in its group of q heads,
// with a centroid of the page. The heads then take turns, each taking the page that it scores
// highest of those that are not taken, until enough are. What is taken is read by all heads.
//
// An approximation without a stated error: what is not chosen is missing from the softmax. Heads
// whose mass lies on few pages lose little, those that spread it over many lose what they spread.
//
// Holds a workspace of a few rows of queries. Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/thread_team.h"
#include "kvstore/key_index.h"
#include "kvstore/kv_geometry.h"

namespace varve {

// The queries of a sequence's step in one layer.
struct StepQueries {
  const float* q = nullptr;  // [num_tokens, num_qo_heads, head_dim], after RoPE
  size_t token_stride = 0;   // floats from one token to the next
  int64_t num_tokens = 0;
};

class PageChooser {
 public:
  explicit PageChooser(const KvGeometry& geometry);

  // What is held beside the scores and ranks of pages, which are charged with the index.
  uint64_t WorkspaceBytes(int32_t clusters) const;

  // Which `count` of the index's pages [first, end) the step reads, ascending. Of pages with equal
  // scores the lower one is taken first. REQUIRES: count <= end - first, end <= index.num_pages().
  std::vector<int64_t> Choose(const KeyIndex& index,
                              int64_t first,
                              int64_t end,
                              int64_t count,
                              const StepQueries& queries);

 private:
  // Fills scores_.
  void ScoreHead(const KeyIndex& index, size_t kv_head, int64_t end, const StepQueries& queries);
  // Raises scores_ to what the first `num_rows` queries of q_ give.
  void RaiseScores(const KeyIndex& index, size_t kv_head, size_t num_rows);
  // The `count` pages of [first, end) that the head scores highest, the highest first.
  void Rank(size_t kv_head, int64_t first, int64_t end, int64_t count);

  KvGeometry geometry_;
  ThreadTeam team_{1};
  std::vector<float> q_;                     // [kRows, head_dim]
  std::vector<float> products_;              // [kRows, pages of a block, clusters]
  std::vector<float> scores_;                // [pages] of one head
  std::vector<std::vector<int64_t>> ranks_;  // [num_kv_heads][pages], the first `count` in order
};

}  // namespace varve
