// The key centroids of one layer's sealed pages of a context, as far as they are this store's: what
// requests that select pages rank them by, held in memory.
//
// Pages enter in order, and stay until the context goes or an ingest that sealed them is dropped.
// Memory is taken in blocks of a few pages, charged to the host tier before they are filled.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/kv_geometry.h"
#include "kvstore/memory_tier.h"

namespace varve {

class KeyIndex {
 public:
  // Pages whose centroids lie together: enough rows for one matrix product.
  static constexpr int64_t kBlockPages = 8;

  KeyIndex(const KvGeometry& geometry, int32_t page_tokens);

  int32_t clusters() const { return clusters_; }  // of a page
  int64_t num_pages() const { return num_pages_; }
  // Whether one more page fits what is reserved.
  bool has_room() const { return num_pages_ < static_cast<int64_t>(blocks_.size()) * kBlockPages; }

  // Room for `num_pages` pages in all. kBudgetExceeded; what was there stays.
  Result<void> Reserve(MemoryTier& host, int64_t num_pages, uint64_t keep_free = 0);
  // centroids: bf16 [clusters, num_kv_heads, head_dim]. REQUIRES: has_room().
  void Add(std::span<const uint16_t> centroids);
  // Of a page that was encoded anew; nothing where it is not in the index.
  void Replace(int64_t page, std::span<const uint16_t> centroids);
  // Forgets the pages from `num_pages` on and gives their blocks back.
  void Truncate(int64_t num_pages);

  // bf16 [kBlockPages, clusters, num_kv_heads, head_dim]: pages block * kBlockPages and on, as far
  // as there are such.
  const uint16_t* BlockRows(int64_t block) const {
    return blocks_[static_cast<size_t>(block)].centroids.data();
  }

 private:
  struct Block {
    std::vector<uint16_t> centroids;
    MemoryCharge charge;
  };

  void Put(int64_t page, std::span<const uint16_t> centroids);

  int32_t clusters_;
  size_t num_kv_heads_;
  size_t page_values_;
  int64_t num_pages_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace varve
