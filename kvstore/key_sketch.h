// A coarse copy of the keys of one layer's sealed pages of a context, as far as they are this
// store's, held in memory: by it requests estimate how much attention each page would get without
// reading the page.
//
// A page's sketch is the mean of its keys and the largest difference from it in each dimension, in
// bf16, and what each key differs from the mean, in 2 bits per dimension (codec rot2: rotated,
// Lloyd-Max levels, a scale per key). Keys are decoded ones, after RoPE: those that a query is
// scored with. Attention over the sketch, without values, gives each page's mass for each query and
// head: the sum over its keys, not the largest of them. The mean is kept apart because keys of one
// layer often have a large part in common, which would use up the levels.
//
// Two levels: of more than `most_scored` pages, only that many have their keys scored: those with
// the highest upper bound of a score for some head, q . mean + |q| . range (the bound that Quest
// ranks by, 2406.10774, around the mean), and every kProbeStride-th page. The others' mass is what
// their mean says, times what is missing in that for the pages of the second kind. So the time of a
// very long context is that of its means and ranges, an eighth of the sketch.
//
// Costs head_dim / 4 + 2 bytes per key and kv head, a quarter of a page in int4, and 4 * head_dim
// per page and kv head.
//
// Pages enter in order. Memory is taken in blocks of pages, charged to the host tier before they
// are filled. Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attend.h"
#include "kernels/thread_team.h"
#include "kvstore/kv_geometry.h"
#include "kvstore/memory_tier.h"
#include "kvstore/page_chooser.h"

namespace varve {

class KeySketch {
 public:
  static constexpr int64_t kBlockPages = 32;
  static constexpr int64_t kProbeStride = 64;
  // A million tokens in pages of 128.
  static constexpr int64_t kMostScored = 8192;

  KeySketch(const KvGeometry& geometry, int32_t page_tokens, int64_t most_scored = kMostScored);

  int64_t num_pages() const { return std::ssize(num_tokens_); }
  uint64_t BytesPerPage() const;  // where blocks are full

  // Room for `num_pages` pages in all. kBudgetExceeded; what was there stays.
  Result<void> Reserve(MemoryTier& host, int64_t num_pages, uint64_t keep_free = 0);
  // The next page. keys: [num_tokens, num_kv_heads, head_dim], dense; overwritten. REQUIRES: room,
  // num_tokens <= page_tokens.
  void Add(float* keys, int32_t num_tokens);

  // An estimate of the lse of pages [first, end) for each query and head, -infinity for a page
  // without keys. lse: [end - first, queries.num_tokens, num_qo_heads]. A cap on logits is not
  // applied.
  void Score(int64_t first,
             int64_t end,
             const StepQueries& queries,
             AttendScratch& scratch,
             ThreadTeam& team,
             float* lse);

 private:
  struct Block {
    std::vector<std::byte> keys;  // [kBlockPages, key_bytes_]
    MemoryCharge charge;
  };
  // Twice as many pages as the one before, so that there are few of them.
  struct Summaries {
    int64_t first_page = 0;
    int64_t num_pages = 0;
    // bf16 [num_kv_heads, num_pages, 2, head_dim]: mean, range
    std::vector<uint16_t> values;
    MemoryCharge charge;
  };

  uint16_t* SummaryOf(int64_t page, size_t kv_head);
  // products: [num_tokens * num_qo_heads, end - first], of each query with the means, or with means
  // and ranges.
  void Multiply(int64_t first,
                int64_t end,
                const StepQueries& queries,
                bool with_ranges,
                ThreadTeam& team,
                std::vector<float>& products);
  // Into chosen_: which pages of [first, end) have their keys scored. bounds: as products.
  void Choose(int64_t first,
              int64_t end,
              const StepQueries& queries,
              const std::vector<float>& bounds,
              ThreadTeam& team);
  // The lse of the keys' differences from the mean. lse: [pages, num_tokens, num_qo_heads].
  void ScoreKeys(std::span<const int64_t> pages,
                 const StepQueries& queries,
                 AttendScratch& scratch,
                 ThreadTeam& team,
                 float* lse);

  KvGeometry geometry_;
  int32_t page_tokens_;
  int64_t most_scored_;
  size_t token_floats_;
  size_t key_bytes_;  // of a page
  std::vector<Block> blocks_;
  std::vector<Summaries> summaries_;
  std::vector<int32_t> num_tokens_;  // [pages]
  // Reused from call to call.
  std::vector<std::byte> encoded_;
  std::vector<KvView> views_;
  std::vector<int64_t> positions_;
  std::vector<float> q_;
  std::vector<float> product_;  // of one head
  std::vector<float> means_;
  std::vector<float> bounds_;
  std::vector<std::vector<float>> highest_;  // [threads]
  std::vector<float> limits_;                // [num_qo_heads]
  std::vector<int64_t> chosen_;
  std::vector<float> chosen_lse_;
};

}  // namespace varve
