#include "kvstore/key_index.h"

#include <algorithm>

#include "kvstore/page_format.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// What a page in the index costs beside its centroids: its share of the block, and its scores and
// ranks for each head while pages are chosen.
constexpr uint64_t kPageOverheadBytes = 16;
constexpr uint64_t kPageHeadBytes = sizeof(float) + sizeof(int64_t);

}  // namespace

KeyIndex::KeyIndex(const KvGeometry& geometry, int32_t page_tokens)
    : clusters_(NumKeyClusters(page_tokens)),
      num_kv_heads_(static_cast<size_t>(geometry.num_kv_heads)),
      page_values_(static_cast<size_t>(clusters_) * num_kv_heads_ *
                   static_cast<size_t>(geometry.head_dim)) {}

Result<void> KeyIndex::Reserve(MemoryTier& host, int64_t num_pages, uint64_t keep_free) {
  constexpr auto kPages = static_cast<size_t>(kBlockPages);
  const uint64_t bytes = kPages * (page_values_ * sizeof(uint16_t) + kPageOverheadBytes +
                                   num_kv_heads_ * kPageHeadBytes);
  while (static_cast<int64_t>(blocks_.size()) * kBlockPages < num_pages) {
    VARVE_TRY(MemoryCharge charge,
              host.Reserve(bytes, "the key centroids of a context's pages", keep_free));
    blocks_.push_back({std::vector<uint16_t>(kPages * page_values_), std::move(charge)});
  }
  return {};
}

void KeyIndex::Add(std::span<const uint16_t> centroids) {
  VARVE_CHECK(has_room());
  Put(num_pages_, centroids);
  ++num_pages_;
}

void KeyIndex::Replace(int64_t page, std::span<const uint16_t> centroids) {
  if (page < num_pages_) {
    Put(page, centroids);
  }
}

void KeyIndex::Put(int64_t page, std::span<const uint16_t> centroids) {
  VARVE_CHECK(centroids.size() == page_values_);
  Block& block = blocks_[static_cast<size_t>(page / kBlockPages)];
  const size_t at = static_cast<size_t>(page % kBlockPages) * page_values_;
  std::copy(
      centroids.begin(), centroids.end(), block.centroids.begin() + static_cast<ptrdiff_t>(at));
}

void KeyIndex::Truncate(int64_t num_pages) {
  num_pages_ = std::min(num_pages_, num_pages);
  const auto blocks = static_cast<size_t>((num_pages_ + kBlockPages - 1) / kBlockPages);
  while (blocks_.size() > blocks) {
    blocks_.pop_back();
  }
}

}  // namespace varve
