#include "kvstore/page_grid.h"

#include <algorithm>

#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve {

PageGrid::PageGrid(const KvPolicy& policy, const Shard& shard, uint64_t owner, int64_t sealed_floor)
    : page_tokens_(policy.page_tokens),
      recent_window_tokens_(policy.recent_window_tokens),
      rank_(shard.rank),
      num_workers_(shard.num_workers),
      offset_(static_cast<int64_t>(Mix64(owner) % static_cast<uint64_t>(shard.num_workers))),
      sealed_floor_(sealed_floor) {
  VARVE_CHECK(page_tokens_ >= 1 && recent_window_tokens_ >= 0);
  VARVE_CHECK(num_workers_ >= 1 && rank_ >= 0 && rank_ < num_workers_);
}

int64_t PageGrid::NextOwned(int64_t page) const {
  const int64_t owner = (page + offset_) % num_workers_;
  return page + (rank_ - owner + num_workers_) % num_workers_;
}

int64_t PageGrid::CountOwned(int64_t first, int64_t end) const {
  const int64_t next = NextOwned(first);
  return next >= end ? 0 : (end - next + num_workers_ - 1) / num_workers_;
}

int64_t PageGrid::SealedEnd(int64_t length) const {
  return std::max(sealed_floor_,
                  std::max<int64_t>(0, length - recent_window_tokens_) / page_tokens_);
}

int64_t PageGrid::FirstReachable(int64_t position, int64_t window) const {
  return window <= 0 ? 0 : PageOf(std::max<int64_t>(0, position - window + 1));
}

}  // namespace varve
