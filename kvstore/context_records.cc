#include "kvstore/context_records.h"

#include <algorithm>

namespace varve {

ContextRecords::ContextRecords(const ContextManifest& manifest, const KvGeometry& geometry)
    : manifest_(manifest), geometry_(geometry) {
  auto shared = std::make_shared<std::vector<SharedRange>>();
  for (const LineagePart& part : manifest.lineage) {
    shared->push_back({part.owner.value, part.end_page});
  }
  const TailRef tail = manifest.committed_tail();
  sealed_.owner = manifest.id.value;
  sealed_.shared = std::move(shared);
  sealed_.model_hash = manifest.model_hash;
  sealed_.grid = PageGrid(manifest.policy, Shard{}, 0, manifest.shared_pages());
  sealed_.length = manifest.num_tokens;
  sealed_.end_page = manifest.sealed_pages();
  tails_ = sealed_;
  tails_.source = PageSegment::Source::kTail;
  tails_.owner = tail.owner.value;
  tails_.tail_version = tail.version;
  tails_.first_page = sealed_.end_page;
  tails_.end_page = tails_.grid.NumPages(manifest.num_tokens);
}

int64_t ContextRecords::FirstPage(const PageSegment& segment, int32_t layer) const {
  const int64_t window = geometry_.layer_windows[static_cast<size_t>(layer)];
  return std::max(segment.first_page, segment.grid.FirstReachable(manifest_.num_tokens, window));
}

std::optional<ContextRecords::Record> ContextRecords::Next() {
  for (; !at_tails_ || layer_ < geometry_.num_layers(); ++layer_, page_ = -1) {
    if (layer_ == geometry_.num_layers()) {
      at_tails_ = true;
      layer_ = 0;
    }
    const PageSegment& segment = at_tails_ ? tails_ : sealed_;
    page_ = page_ < 0 ? FirstPage(segment, layer_) : page_ + 1;
    if (page_ < segment.end_page) {
      const auto row = static_cast<uint16_t>(layer_);
      const RunShape shape{geometry_.num_kv_heads, geometry_.head_dim, 1};
      return Record{segment.IdOf(page_, row), segment.IdentityOf(page_, row, shape), layer_};
    }
  }
  return std::nullopt;
}

int64_t ContextRecords::count() const {
  int64_t count = 0;
  for (const PageSegment* segment : {&sealed_, &tails_}) {
    for (int32_t layer = 0; layer < geometry_.num_layers(); ++layer) {
      count += std::max<int64_t>(0, segment->end_page - FirstPage(*segment, layer));
    }
  }
  return count;
}

}  // namespace varve
