// Requests that read a share of a context's sealed pages: the index they choose by, and the choice.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "kvstore/kv_store_impl.h"
#include "kvstore/tokens/token_policy.h"

namespace varve {

// Pages are added in order: an ingest that goes on behind pages that are not in the index leaves
// its own to the request that will fill it.
Result<void> KvStoreImpl::ReserveKeyIndexes(const SequenceState& state,
                                            int64_t end_page,
                                            uint64_t keep_free) {
  if (!state.is_ingest || !state.policy.selects_pages) {
    return {};
  }
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<size_t>(layer);
    KeyIndex& index = state.context->key_indexes[row];
    if (window(layer) == 0 &&
        index.num_pages() == state.grid.CountOwned(0, state.sealed_end[row])) {
      VARVE_RETURN_IF_ERROR(index.Reserve(memory_, state.grid.CountOwned(0, end_page), keep_free));
    }
  }
  return {};
}

void KvStoreImpl::AddToKeyIndex(const SequenceState& state, int32_t layer, int64_t page) {
  if (!state.is_ingest || sealer_.key_centroids().empty()) {
    return;
  }
  KeyIndex& index = state.context->key_indexes[static_cast<size_t>(layer)];
  if (index.num_pages() == state.grid.CountOwned(0, page) && index.has_room()) {
    index.Add(sealer_.key_centroids());
  }
}

Result<void> KvStoreImpl::FillKeyIndexes(const SequenceState& state, uint64_t keep_free) {
  if (!Selects(state)) {
    return {};
  }
  PageSegment sealed = CommittedSegment(*state.context, PageSegment::Source::kSealed);
  sealed.end_page =
      std::min(sealed.grid.SealedEnd(state.base_length), sealed.grid.NumPages(state.base_tokens));
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    if (window(layer) == 0) {
      VARVE_RETURN_IF_ERROR(FillKeyIndex(
          sealed, layer, keep_free, state.context->key_indexes[static_cast<size_t>(layer)]));
    }
  }
  return {};
}

Result<void> KvStoreImpl::FillKeyIndex(const PageSegment& sealed,
                                       int32_t layer,
                                       uint64_t keep_free,
                                       KeyIndex& index) {
  const int64_t num_pages = sealed.grid.CountOwned(0, sealed.end_page);
  std::vector<uint16_t> centroids;
  while (index.num_pages() < num_pages) {
    VARVE_RETURN_IF_ERROR(index.Reserve(memory_, index.num_pages() + 1, keep_free));
    const auto row = static_cast<uint16_t>(layer);
    const int64_t page = sealed.grid.OwnedPage(index.num_pages());
    const PageIdentity identity = sealed.IdentityOf(page, row, sealer_.ShapeOf(1));
    VARVE_TRY(const auto record,
              LoadRecord(cursor_deps(),
                         sealed.IdOf(page, row),
                         identity,
                         sealer_.SealedBytes(sealed.policy, identity)));
    VARVE_TRY(const PageRecord* parsed, record->Use());
    if (parsed->key_centroids.empty()) {
      return Error{ErrorCode::kPageCorrupt,
                   DescribeKey(identity.key) + " has no key centroids, which its context wants"};
    }
    centroids.resize(parsed->key_centroids.size() / sizeof(uint16_t));
    std::memcpy(centroids.data(), parsed->key_centroids.data(), parsed->key_centroids.size());
    index.Add(centroids);
  }
  return {};
}

void KvStoreImpl::SelectPages(SequenceState& state,
                              int32_t layer,
                              const StepQueries& queries,
                              std::span<PageSegment> segments) {
  for (PageSegment& segment : segments) {
    if (segment.source != PageSegment::Source::kSealed) {
      continue;
    }
    const KvPolicy& policy = segment.policy.policy;
    const PageGrid& grid = segment.grid;
    const int64_t sinks =
        grid.CountOwned(0, std::min(grid.NumPages(policy.sink_tokens), segment.end_page));
    const int64_t total = grid.CountOwned(0, segment.end_page);
    const int64_t wanted = CeilShare(policy.keep, total - sinks);
    std::vector<int64_t> pages(static_cast<size_t>(sinks));
    std::iota(pages.begin(), pages.end(), 0);
    const KeyIndex& index = state.context->key_indexes[static_cast<size_t>(layer)];
    const std::vector<int64_t> chosen = chooser_.Choose(index, sinks, total, wanted, queries);
    pages.insert(pages.end(), chosen.begin(), chosen.end());
    for (int64_t& page : pages) {
      page = grid.OwnedPage(page);
    }
    counters_.selective_pages_read += pages.size();
    counters_.selective_pages_total += static_cast<uint64_t>(total);
    state.selected_reads.read += std::ssize(pages);
    state.selected_reads.total += total;
    segment.chosen = std::move(pages);
  }
}

std::optional<PageReads> KvStoreImpl::SelectedReads(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end() || !(Selects(found->second) || found->second.selective)) {
    return std::nullopt;
  }
  return found->second.selected_reads;
}

}  // namespace varve
