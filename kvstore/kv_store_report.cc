#include <algorithm>
#include <map>
#include <set>

#include "kvstore/kv_store_impl.h"
#include "kvstore/record_keys.h"

namespace varve {

PageSegment KvStoreImpl::CommittedSegment(const ContextState& context,
                                          PageSegment::Source source) const {
  PageSegment segment;
  segment.source = source;
  const bool sealed = source == PageSegment::Source::kSealed;
  const TailRef tail = context.committed.committed_tail();
  segment.owner = sealed ? context.committed.id.value : tail.owner.value;
  segment.shared = context.shared_ranges;
  segment.model_hash = context.committed.model_hash;
  segment.grid = context.grid;
  segment.policy = context.policy;
  segment.length = context.committed.num_tokens;
  segment.visible_end = segment.length;
  const int64_t sealed_end = context.grid.SealedEnd(segment.length);
  segment.tail_version = sealed ? 0 : tail.version;
  segment.first_page = sealed ? 0 : sealed_end;
  segment.end_page = sealed ? sealed_end : context.grid.NumPages(segment.length);
  return segment;
}

PageSegment KvStoreImpl::SealedOf(const PageOwner& owner, int64_t end_page) const {
  PageSegment sealed = CommittedSegment(*owner.readers.front(), PageSegment::Source::kSealed);
  sealed.owner = owner.id;
  sealed.shared = nullptr;
  sealed.end_page = end_page;
  return sealed;
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

// Adds `times` records of one size to a usage.
void KvStoreImpl::Count(const PageSegment& segment,
                        const PageIdentity& identity,
                        uint64_t record_bytes,
                        int64_t times,
                        ContextUsage& usage,
                        Rung rung) const {
  const bool tail = segment.source == PageSegment::Source::kTail;
  const int64_t kept = tail ? identity.num_tokens
                            : sealer_.KeptTokensOf(segment.policy, identity, record_bytes, rung);
  const uint64_t token_bytes = uint64_t{4} * static_cast<uint64_t>(options_.geometry.num_kv_heads) *
                               static_cast<uint64_t>(options_.geometry.head_dim);
  usage.disk_bytes += static_cast<uint64_t>(times) * (record_bytes + kRecordRowBytes);
  usage.bf16_bytes +=
      static_cast<uint64_t>(times) * static_cast<uint64_t>(identity.num_tokens) * token_bytes;
  usage.layer_tokens += times * identity.num_tokens;
  usage.kept_layer_tokens += times * kept;
  if (!tail) {
    const auto row = static_cast<size_t>(rung);
    usage.rungs[row].pages += times;
    usage.rungs[row].bytes += static_cast<uint64_t>(times) * record_bytes;
  }
}

// The sealed pages of a layer. Where the numbers decide how much of a page stays, each page has its
// own size, which the disk's index (or, without a disk, the host tier) knows.
Result<void> KvStoreImpl::CountSealed(const PageOwner& owner,
                                      const PageSegment& sealed,
                                      uint16_t layer,
                                      int64_t first,
                                      ContextUsage& usage) const {
  const auto identity_of = [&](int64_t page) {
    return sealed.IdentityOf(page, layer, sealer_.ShapeOf(1));
  };
  const PageGrid& grid = sealed.grid;
  // Pages behind the sinks are alike.
  const int64_t alike = std::clamp(
      grid.NumPages(sealed.policy.policy.sink_tokens), first, std::max(first, sealed.end_page));
  const PageLadder* ladder = window(layer) == 0 ? owner.ladder.get() : nullptr;
  if (ladder == nullptr &&
      (sealed.policy.tokens == nullptr || !sealed.policy.tokens->size_depends_on_data())) {
    for (int64_t page = grid.NextOwned(first); page < alike; page = grid.NextOwned(page + 1)) {
      const PageIdentity identity = identity_of(page);
      Count(sealed, identity, sealer_.SealedBytes(sealed.policy, identity), 1, usage);
    }
    if (const int64_t pages = grid.CountOwned(alike, sealed.end_page); pages > 0) {
      const PageIdentity identity = identity_of(grid.NextOwned(alike));
      Count(sealed, identity, sealer_.SealedBytes(sealed.policy, identity), pages, usage);
    }
    return {};
  }
  std::map<int64_t, uint64_t> bytes_of;
  if (ladder == nullptr && disk_ != nullptr) {
    VARVE_TRY(const auto pages, disk_->ListLayerPageBytes(ContextId{sealed.owner}, layer));
    for (const auto& [key, bytes] : pages) {
      bytes_of[static_cast<int64_t>(key.page)] = bytes;
    }
  }
  std::map<std::pair<uint64_t, Rung>, int64_t> pages_of_size;
  for (int64_t page = grid.NextOwned(first); page < sealed.end_page;
       page = grid.NextOwned(page + 1)) {
    uint64_t bytes = 0;
    Rung rung = Rung::kHot;
    if (ladder != nullptr) {
      const LadderPage& known = ladder->page(layer, LadderIndex(owner, grid, page));
      bytes = known.bytes;
      rung = known.rung;
    } else {
      bytes = disk_ != nullptr ? bytes_of[page] : memory_.RecordBytes(sealed.IdOf(page, layer));
    }
    if (page < alike) {
      Count(sealed, identity_of(page), bytes, 1, usage, rung);
    } else {
      ++pages_of_size[{bytes, rung}];
    }
  }
  for (const auto& [size, pages] : pages_of_size) {
    Count(sealed, identity_of(alike), size.first, pages, usage, size.second);
  }
  return {};
}

// Pages of one owner, all of them counted for the same context.
Result<void> KvStoreImpl::CountPages(const ContextState& context,
                                     const OwnedRange& pages,
                                     int32_t layer,
                                     ContextUsage& usage) const {
  const uint64_t before = usage.disk_bytes;
  VARVE_RETURN_IF_ERROR(CountSealed(*pages.owner,
                                    SealedOf(*pages.owner, pages.end_page),
                                    static_cast<uint16_t>(layer),
                                    pages.first_page,
                                    usage));
  usage.num_pages += context.grid.CountOwned(pages.first_page, pages.end_page);
  if (CountedAt(*pages.owner, layer, pages.first_page) != &context) {
    usage.shared_disk_bytes += usage.disk_bytes - before;
  }
  return {};
}

Result<void> KvStoreImpl::CountRange(const ContextState& context,
                                     const OwnedRange& range,
                                     int32_t layer,
                                     ContextUsage& usage) const {
  if (window(layer) > 0) {
    for (const int64_t page : range.owner->window_pages[static_cast<size_t>(layer)]) {
      // Of its own it counts also what only forks and requests still read.
      if (page < range.end_page &&
          (range.owner == context.own || Reaches(context, *range.owner, layer, page))) {
        VARVE_RETURN_IF_ERROR(CountPages(context, {range.owner, page, page + 1}, layer, usage));
      }
    }
    return {};
  }
  // Between two ends of what its readers share, pages are counted alike.
  for (int64_t first = range.first_page; first < range.end_page;) {
    int64_t end = range.end_page;
    for (const ContextState* reader : range.owner->readers) {
      for (const OwnedRange& other : reader->shared) {
        if (other.owner == range.owner && other.end_page > first) {
          end = std::min(end, other.end_page);
        }
      }
    }
    VARVE_RETURN_IF_ERROR(CountPages(context, {range.owner, first, end}, layer, usage));
    first = end;
  }
  return {};
}

void KvStoreImpl::CountResident(const ContextState& context,
                                const MemoryTier& tier,
                                uint64_t& all,
                                uint64_t& shared) const {
  const TailRef tail = context.committed.committed_tail();
  tier.ForEach([&](const RecordId& id, uint64_t bytes) {
    if (id.key.space != PageKey::Space::kContext) {
      return;
    }
    if (id.key.owner == context.own->id) {
      all += bytes;
      return;
    }
    const auto range = std::find_if(context.shared.begin(),
                                    context.shared.end(),
                                    [&](const auto& one) { return one.owner->id == id.key.owner; });
    if (range == context.shared.end()) {
      return;
    }
    const auto page = static_cast<int64_t>(id.key.page);
    const bool is_tail = id.tail_version != 0;
    const bool reads = is_tail ? tail == TailRef{ContextId{id.key.owner}, id.tail_version}
                               : Reaches(context, *range->owner, id.key.first_layer, page);
    if (reads) {
      const ContextState* counted_at =
          is_tail ? TailCountedAt(context) : CountedAt(*range->owner, id.key.first_layer, page);
      all += bytes;
      shared += counted_at == &context ? 0 : bytes;
    }
  });
}

Result<ContextUsage> KvStoreImpl::GetContextUsage(ContextId id) const {
  VARVE_TRY(const auto context, FindContext(id));
  ContextUsage usage;
  usage.id = id;
  CountResident(*context, host_, usage.host_bytes, usage.shared_host_bytes);
  if (device_ != nullptr) {
    CountResident(*context, *device_, usage.device_bytes, usage.shared_device_bytes);
  }
  const ContextManifest& committed = context->committed;
  const OwnedRange own{context->own, committed.shared_pages(), committed.sealed_pages()};
  const PageSegment tails = CommittedSegment(*context, PageSegment::Source::kTail);
  const bool tail_is_shared = TailCountedAt(*context) != context.get();
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    for (const OwnedRange& range : context->shared) {
      VARVE_RETURN_IF_ERROR(CountRange(*context, range, layer, usage));
    }
    VARVE_RETURN_IF_ERROR(CountRange(*context, own, layer, usage));
    const uint64_t before = usage.disk_bytes;
    const int64_t first = context->grid.FirstReachable(committed.num_tokens, window(layer));
    int64_t page = context->grid.NextOwned(std::max(first, tails.first_page));
    for (; page < tails.end_page; page = context->grid.NextOwned(page + 1)) {
      const auto row = static_cast<uint16_t>(layer);
      const PageIdentity identity = tails.IdentityOf(page, row, sealer_.ShapeOf(1));
      Count(tails, identity, sealer_.TailBytes(context->policy, identity), 1, usage);
    }
    usage.shared_disk_bytes += tail_is_shared ? usage.disk_bytes - before : 0;
  }
  return usage;
}

bool KvStoreImpl::Owns(SequenceId sequence, int64_t position) const {
  const auto found = sequences_.find(sequence);
  return found != sequences_.end() && found->second.grid.Owns(found->second.grid.PageOf(position));
}

int64_t KvStoreImpl::SequenceLength(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  return found == sequences_.end() ? -1 : found->second.length;
}

WorkerStats KvStoreImpl::Stats() const {
  WorkerStats stats;
  stats.has_device = device_ != nullptr;
  if (device_ != nullptr) {
    stats.device = {device_->used(), device_->budget()};
  }
  stats.host = {host_.used(), host_.budget()};
  if (disk_ != nullptr) {
    const DiskTier::Stats disk = disk_->GetStats();
    stats.disk = disk.bytes;
    stats.disk_errors = disk.errors;
  }
  stats.num_pages = counters_.num_pages;
  stats.page_reads_device = counters_.page_reads_device;
  stats.page_reads_host = counters_.page_reads_host;
  stats.page_reads_disk = counters_.page_reads_disk;
  stats.disk_bytes_read = counters_.disk_bytes_read;
  stats.disk_bytes_written = counters_.disk_bytes_written;
  stats.pages_sealed = counters_.pages_sealed;
  stats.selective_pages_read = counters_.selective_pages_read;
  stats.selective_pages_total = counters_.selective_pages_total;
  stats.checksum_failures = counters_.checksum_failures;
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    stats.rungs[rung] = {ladder_counters_.pages[rung], ladder_counters_.bytes[rung]};
    stats.demotions[rung] = ladder_counters_.demotions[rung];
    stats.demoted_bytes[rung] = ladder_counters_.demoted_bytes[rung];
  }
  for (size_t reason = 0; reason < stats.demotion_failures.size(); ++reason) {
    stats.demotion_failures[reason] = ladder_counters_.failures[reason];
  }
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
                     memory_.Contains(segment.IdOf(page, static_cast<uint16_t>(layer)));
    held.push_back(entry);
  };
  const auto add_owned =
      [&](const PageSegment& segment, int32_t layer, int64_t first, int64_t end) {
        for (int64_t page = segment.grid.NextOwned(first); page < end;
             page = segment.grid.NextOwned(page + 1)) {
          add(segment, layer, page);
        }
      };
  for (const auto& [id, owner] : owners_) {
    const PageSegment sealed = SealedOf(*owner, 0);
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      const auto row = static_cast<size_t>(layer);
      if (window(layer) == 0) {
        add_owned(sealed, layer, owner->first_page, owner->sealed_end[row]);
      }
      for (const int64_t page : owner->window_pages[row]) {
        add(sealed, layer, page);
      }
    }
  }
  for (const auto& [id, context] : contexts_) {
    if (context->ingest || TailCountedAt(*context) != context.get()) {
      continue;
    }
    const PageSegment tails = CommittedSegment(*context, PageSegment::Source::kTail);
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      const int64_t reachable = context->grid.FirstReachable(tails.length, window(layer));
      add_owned(tails, layer, std::max(tails.first_page, reachable), tails.end_page);
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
