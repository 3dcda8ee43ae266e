// A coarse copy of the keys of one layer's sealed pages of a context, as far as they are this
// store's, held in memory: by it requests estimate how much attention each page would get without
// reading the page.
//
// A page's sketch is the mean of its keys, in bf16, and what each key differs from it, in 2 bits
// per dimension (codec rot2: rotated, Lloyd-Max levels, a scale per key). Keys are decoded ones,
// after RoPE: those that a query is scored with. Attention over the sketch, without values, gives
// each page's mass for each query and head: the sum over its keys, not the largest of them.
//
// Costs head_dim / 4 + 2 bytes per key and kv head, a quarter of a page in int4. The mean is kept
// apart because keys of one layer often have a large part in common, which would use up the levels.
//
// All keys of all pages are scored. Scoring only those of the pages with the highest bounds
// q . mean + |q| . range (after Quest, 2406.10774) was tried: of 40 needles among 10,485,760 keys
// without structure, a tenth of the pages ranked so had 5.
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

  KeySketch(const KvGeometry& geometry, int32_t page_tokens);

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
  struct Means {
    int64_t first_page = 0;
    int64_t num_pages = 0;
    std::vector<uint16_t> values;  // bf16 [num_kv_heads, num_pages, head_dim]
    MemoryCharge charge;
  };

  uint16_t* MeanOf(int64_t page, size_t kv_head);
  // Into products_: the scores that the means have. [num_tokens * num_qo_heads, end - first]
  void ScoreMeans(int64_t first, int64_t end, const StepQueries& queries, ThreadTeam& team);

  KvGeometry geometry_;
  int32_t page_tokens_;
  size_t token_floats_;
  size_t key_bytes_;  // of a page
  std::vector<Block> blocks_;
  std::vector<Means> means_;
  std::vector<int32_t> num_tokens_;  // [pages]
  // Reused from call to call.
  std::vector<std::byte> encoded_;
  std::vector<KvView> views_;
  std::vector<int64_t> positions_;
  std::vector<float> q_;
  std::vector<float> product_;  // of one head
  std::vector<float> products_;
};

}  // namespace varve
