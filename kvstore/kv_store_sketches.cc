// Requests whose attention is selective: the pages that they may leave out, and the sketches by
// which those are ranked.
#include <algorithm>
#include <numeric>

#include "kvstore/kv_store_impl.h"

namespace varve {

const SelectiveAttention* KvStoreImpl::Selective(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  return found == sequences_.end() || !found->second.selective ? nullptr
                                                               : &*found->second.selective;
}

PageSegment KvStoreImpl::BaseSealed(const SequenceState& state) const {
  PageSegment sealed = CommittedSegment(*state.context, PageSegment::Source::kSealed);
  sealed.length = state.base_length;
  sealed.visible_end = state.base_tokens;
  // The page in which the snapshot ends is read whole or not at all: it is not left out.
  sealed.end_page =
      std::min(sealed.grid.SealedEnd(state.base_length), sealed.grid.PageOf(state.base_tokens));
  return sealed;
}

KvStoreImpl::PageRange KvStoreImpl::SelectableRange(const SequenceState& state,
                                                    int32_t layer) const {
  if (!state.selective || state.context == nullptr || state.is_ingest || window(layer) != 0) {
    return {};
  }
  const PageSegment sealed = BaseSealed(state);
  const int64_t sinks =
      std::min(sealed.grid.NumPages(sealed.policy.policy.sink_tokens), sealed.end_page);
  return {sealed.grid.CountOwned(0, sinks), sealed.grid.CountOwned(0, sealed.end_page)};
}

void KvStoreImpl::LeaveOut(const PageRange& selectable, std::span<PageSegment> segments) {
  for (PageSegment& segment : segments) {
    if (segment.source != PageSegment::Source::kSealed) {
      continue;
    }
    std::vector<int64_t> pages(static_cast<size_t>(selectable.first));
    std::iota(pages.begin(), pages.end(), int64_t{0});
    for (int64_t i = selectable.end; i < segment.grid.CountOwned(0, segment.end_page); ++i) {
      pages.push_back(i);
    }
    for (int64_t& page : pages) {
      page = segment.grid.OwnedPage(page);
    }
    segment.chosen = std::move(pages);
  }
}

SelectablePages KvStoreImpl::Selectable(SequenceId sequence, int32_t layer) const {
  const SequenceState& state = sequences_.at(sequence);
  const PageRange range = SelectableRange(state, layer);
  SelectablePages selectable;
  selectable.pages.resize(static_cast<size_t>(range.end - range.first));
  std::iota(selectable.pages.begin(), selectable.pages.end(), range.first);
  for (int64_t& page : selectable.pages) {
    page = state.context->grid.OwnedPage(page);
  }
  selectable.budget = std::ssize(selectable.pages);
  if (state.selective && state.selective->budget_tokens > 0) {
    const int64_t shared = int64_t{options_.shard.num_workers} * state.grid.page_tokens();
    selectable.budget = (state.selective->budget_tokens + shared - 1) / shared;
  }
  return selectable;
}

void KvStoreImpl::EstimatePages(SequenceId sequence,
                                int32_t layer,
                                const StepQueries& queries,
                                AttendScratch& scratch,
                                ThreadTeam& team,
                                float* lse) {
  const SequenceState& state = OpenedSequence(sequence);
  const PageRange range = SelectableRange(state, layer);
  state.context->key_sketches[static_cast<size_t>(layer)].Score(
      range.first, range.end, queries, scratch, team, lse);
}

std::unique_ptr<PageCursor> KvStoreImpl::ReadPages(SequenceId sequence,
                                                   int32_t layer,
                                                   std::vector<int64_t> pages) {
  PageSegment sealed = BaseSealed(OpenedSequence(sequence));
  sealed.first_page = pages.empty() ? sealed.end_page : pages.front();
  sealed.chosen = std::move(pages);
  return MakePageCursor(cursor_deps(), static_cast<uint16_t>(layer), {std::move(sealed)});
}

void KvStoreImpl::NoteReads(SequenceId sequence, const PageReads& reads) {
  OpenedSequence(sequence).selected_reads.Add(reads);
  counters_.selective_pages_read += static_cast<uint64_t>(reads.read);
  counters_.selective_pages_total += static_cast<uint64_t>(reads.total);
}

Result<void> KvStoreImpl::FillKeySketches(SequenceState& state, uint64_t keep_free) {
  if (!state.selective || state.context == nullptr || state.is_ingest) {
    return {};
  }
  ContextState& context = *state.context;
  while (std::ssize(context.key_sketches) < num_layers()) {
    context.key_sketches.emplace_back(options_.geometry, context.policy.policy.page_tokens);
  }
  VARVE_RETURN_IF_ERROR(EnsureWorkspace(context.policy));
  const PageSegment sealed = BaseSealed(state);
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    if (window(layer) == 0) {
      VARVE_RETURN_IF_ERROR(FillKeySketch(
          sealed, layer, keep_free, context.key_sketches[static_cast<size_t>(layer)]));
    }
  }
  return {};
}

Result<void> KvStoreImpl::FillKeySketch(const PageSegment& sealed,
                                        int32_t layer,
                                        uint64_t keep_free,
                                        KeySketch& sketch) {
  const int64_t num_pages = sealed.grid.CountOwned(0, sealed.end_page);
  if (sketch.num_pages() >= num_pages) {
    return {};
  }
  // The device tier is for what attention reads, which has to stay free where that is in memory.
  VARVE_RETURN_IF_ERROR(sketch.Reserve(host_, num_pages, device_ == nullptr ? keep_free : 0));
  PageSegment missing = sealed;
  missing.first_page = sealed.grid.OwnedPage(sketch.num_pages());
  const auto cursor = MakePageCursor(cursor_deps(), static_cast<uint16_t>(layer), {missing});
  const auto add = [&](std::span<const KvView> views) {
    const std::span<float> keys = sealer_.DecodeKeys(views);
    sketch.Add(keys.data(), static_cast<int32_t>(keys.size() / sealer_.TokenFloats()));
  };
  while (true) {
    VARVE_TRY(const std::span<const KvView> views, cursor->Next());
    if (views.empty()) {
      break;
    }
    const std::span<const int64_t> pages = cursor->pages();
    for (size_t first = 0, end = 0; first < views.size(); first = end) {
      while (end < views.size() && pages[end] == pages[first]) {
        ++end;
      }
      // Pages of which nothing was kept have no view.
      while (sealed.grid.OwnedPage(sketch.num_pages()) < pages[first]) {
        add({});
      }
      add(views.subspan(first, end - first));
    }
  }
  while (sketch.num_pages() < num_pages) {
    add({});
  }
  return {};
}

}  // namespace varve
