// Where the pages of a sequence lie: the fixed grid of positions, the shard that owns each page,
// and which pages are sealed or still reachable at a given length. Pure arithmetic: nothing about a
// sealed page has to be remembered, its key and its place follow from the length and the policy.
#pragma once

#include <cstdint>

#include "kvstore/kv_geometry.h"
#include "proto/kv_policy.h"

namespace varve {

class PageGrid {
 public:
  PageGrid() = default;
  // `owner` is the context id (of a fork, that at the root of its lineage), or the sequence id of a
  // request without a context: its hash spreads the first pages of different owners over the
  // workers. Pages below `sealed_floor` are sealed at every length. REQUIRES: policy.page_tokens
  // >= 1.
  PageGrid(const KvPolicy& policy, const Shard& shard, uint64_t owner, int64_t sealed_floor = 0);

  int32_t page_tokens() const { return page_tokens_; }
  int64_t PageOf(int64_t position) const { return position / page_tokens_; }
  int64_t FirstPosition(int64_t page) const { return page * page_tokens_; }
  int64_t EndPosition(int64_t page) const { return (page + 1) * page_tokens_; }
  // Pages that hold the positions [0, length).
  int64_t NumPages(int64_t length) const { return (length + page_tokens_ - 1) / page_tokens_; }

  bool Owns(int64_t page) const { return (page + offset_) % num_workers_ == rank_; }
  // The smallest owned page >= page.
  int64_t NextOwned(int64_t page) const;
  // The owned page before which there are `count` others.
  int64_t OwnedPage(int64_t count) const { return NextOwned(0) + count * num_workers_; }
  // Owned pages in [first, end).
  int64_t CountOwned(int64_t first, int64_t end) const;

  // Pages [0, SealedEnd) of a sequence of this length are sealed: all their tokens are older than
  // the recent window, or came sealed from another context.
  int64_t SealedEnd(int64_t length) const;
  // The lowest page that the query at `position` sees in a layer with this window (0: global,
  // everything).
  int64_t FirstReachable(int64_t position, int64_t window) const;

 private:
  int32_t page_tokens_ = 1;
  int32_t recent_window_tokens_ = 0;
  int64_t rank_ = 0;
  int64_t num_workers_ = 1;
  int64_t offset_ = 0;
  int64_t sealed_floor_ = 0;
};

}  // namespace varve
