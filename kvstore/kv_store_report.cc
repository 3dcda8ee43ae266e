#include <algorithm>
#include <set>

#include "kvstore/kv_store_impl.h"
#include "kvstore/record_keys.h"

namespace varve {
PageSegment KvStoreImpl::CommittedSegment(const ContextState& context,
                                          PageSegment::Source source) const {
  PageSegment segment;
  segment.source = source;
  segment.owner = context.committed.id.value;
  segment.model_hash = context.committed.model_hash;
  segment.grid = context.grid;
  segment.policy = context.policy;
  segment.length = context.committed.num_tokens;
  segment.visible_end = segment.length;
  const int64_t sealed_end = context.grid.SealedEnd(segment.length);
  const bool sealed = source == PageSegment::Source::kSealed;
  segment.tail_version = sealed ? 0 : context.committed.version;
  segment.first_page = sealed ? 0 : sealed_end;
  segment.end_page = sealed ? sealed_end : context.grid.NumPages(segment.length);
  return segment;
}

int64_t KvStoreImpl::NumSealedPages(const SequenceState& state) const {
  int64_t pages = 0;
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<size_t>(layer);
    pages += window(layer) > 0
                 ? static_cast<int64_t>(state.window_pages[row].size())
                 : state.grid.CountOwned(state.own_first_page(), state.sealed_end[row]);
  }
  return pages;
}

int64_t KvStoreImpl::NumSealedPages(const ContextState& context) const {
  const SequenceState* ingest = context.ingest ? &sequences_.at(*context.ingest) : nullptr;
  const int64_t committed_end = context.grid.SealedEnd(context.committed.num_tokens);
  int64_t pages = 0;
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<size_t>(layer);
    const int64_t end =
        ingest == nullptr ? committed_end : std::max(committed_end, ingest->sealed_end[row]);
    pages += window(layer) > 0 ? static_cast<int64_t>(context.window_pages[row].size())
                               : context.grid.CountOwned(0, end);
  }
  return pages;
}

Result<ContextUsage> KvStoreImpl::GetContextUsage(ContextId id) const {
  VARVE_TRY(const auto context, FindContext(id));
  ContextUsage usage;
  usage.id = id;
  usage.num_pages = NumSealedPages(*context);
  usage.host_bytes = host_.ResidentBytes(PageKey::Space::kContext, id.value);
  const PageSegment sealed = CommittedSegment(*context, PageSegment::Source::kSealed);
  const PageSegment tails = CommittedSegment(*context, PageSegment::Source::kTail);
  const uint64_t token_bytes = uint64_t{4} * static_cast<uint64_t>(options_.geometry.num_kv_heads) *
                               static_cast<uint64_t>(options_.geometry.head_dim);
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<uint16_t>(layer);
    const int64_t first =
        context->grid.FirstReachable(context->committed.num_tokens, window(layer));
    const auto count = [&](const PageSegment& segment, int64_t page, int64_t times) {
      const PageIdentity identity = segment.IdentityOf(page, row, sealer_.ShapeOf(1));
      const uint64_t bytes = segment.source == PageSegment::Source::kTail
                                 ? sealer_.TailBytes(context->policy, identity)
                                 : sealer_.SealedBytes(context->policy, identity);
      usage.disk_bytes += static_cast<uint64_t>(times) * (bytes + kRecordRowBytes);
      usage.bf16_bytes +=
          static_cast<uint64_t>(times) * static_cast<uint64_t>(identity.num_tokens) * token_bytes;
    };
    // Sealed pages behind the sinks are all of one size.
    const int64_t uniform = std::clamp(context->grid.NumPages(context->policy.policy.sink_tokens),
                                       first,
                                       std::max(first, sealed.end_page));
    for (int64_t page = context->grid.NextOwned(first); page < uniform;
         page = context->grid.NextOwned(page + 1)) {
      count(sealed, page, 1);
    }
    if (const int64_t pages = context->grid.CountOwned(uniform, sealed.end_page); pages > 0) {
      count(sealed, context->grid.NextOwned(uniform), pages);
    }
    int64_t page = context->grid.NextOwned(std::max(first, tails.first_page));
    for (; page < tails.end_page; page = context->grid.NextOwned(page + 1)) {
      count(tails, page, 1);
    }
  }
  return usage;
}

WorkerStats KvStoreImpl::Stats() const {
  WorkerStats stats;
  stats.host = {host_.used(), host_.budget()};
  if (disk_ != nullptr) {
    stats.disk = disk_->GetStats().bytes;
  }
  stats.num_pages = counters_.num_pages;
  stats.page_reads_host = counters_.page_reads_host;
  stats.page_reads_disk = counters_.page_reads_disk;
  stats.disk_bytes_read = counters_.disk_bytes_read;
  stats.disk_bytes_written = counters_.disk_bytes_written;
  stats.pages_sealed = counters_.pages_sealed;
  stats.checksum_failures = counters_.checksum_failures;
  stats.disk_read_seconds = static_cast<double>(counters_.disk_read_us) * 1e-6;
  stats.disk_write_seconds = static_cast<double>(counters_.disk_write_us) * 1e-6;
  return stats;
}

std::vector<KvStore::HeldPage> KvStoreImpl::HeldPages() const {
  std::vector<HeldPage> held;
  const auto add = [&](const PageSegment& segment, int32_t layer, int64_t page) {
    HeldPage entry{segment.owner, segment.space == PageKey::Space::kScratch, layer, page};
    entry.sealed = segment.source == PageSegment::Source::kSealed;
    entry.resident = segment.source == PageSegment::Source::kUnsealed ||
                     host_.Contains(segment.IdOf(page, static_cast<uint16_t>(layer)));
    held.push_back(entry);
  };
  const auto add_owned =
      [&](const PageSegment& segment, int32_t layer, int64_t first, int64_t end) {
        for (int64_t page = segment.grid.NextOwned(first); page < end;
             page = segment.grid.NextOwned(page + 1)) {
          add(segment, layer, page);
        }
      };
  for (const auto& [id, context] : contexts_) {
    const PageSegment sealed = CommittedSegment(*context, PageSegment::Source::kSealed);
    const PageSegment tails = CommittedSegment(*context, PageSegment::Source::kTail);
    const SequenceState* ingest = context->ingest ? &sequences_.at(*context->ingest) : nullptr;
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      const auto row = static_cast<size_t>(layer);
      const int64_t sealed_end =
          ingest == nullptr ? sealed.end_page : std::max(sealed.end_page, ingest->sealed_end[row]);
      if (window(layer) == 0) {
        add_owned(sealed, layer, 0, sealed_end);
      }
      for (const int64_t page : context->window_pages[row]) {
        add(sealed, layer, page);
      }
      if (ingest == nullptr) {
        add_owned(
            tails,
            layer,
            std::max(tails.first_page, context->grid.FirstReachable(tails.length, window(layer))),
            tails.end_page);
      }
    }
  }
  for (const auto& [id, state] : sequences_) {
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      const auto row = static_cast<size_t>(layer);
      const PageSegment sealed = OwnSegment(state, layer, PageSegment::Source::kSealed);
      if (!state.is_ingest && window(layer) == 0) {
        add_owned(sealed, layer, sealed.first_page, sealed.end_page);
      }
      for (const int64_t page : state.window_pages[row]) {
        add(sealed, layer, page);
      }
      const PageSegment unsealed = OwnSegment(state, layer, PageSegment::Source::kUnsealed);
      for (const auto& [page, run] : state.runs[row]) {
        add(unsealed, layer, page);
      }
    }
  }
  return held;
}

}  // namespace varve
