#include <algorithm>

#include "kvstore/kv_store_impl.h"
#include "proto/base/clock.h"

namespace varve {
namespace {

// What an unsealed run costs beside its bytes: map node and vector.
constexpr uint64_t kRunOverheadBytes = 128;

}  // namespace

uint64_t KvStoreImpl::RunBytes(const SequenceState& state, int64_t page) const {
  const int64_t first = std::max(state.grid.FirstPosition(page), state.base_tokens);
  const auto capacity = static_cast<int32_t>(state.grid.EndPosition(page) - first);
  return state.policy.exact->EncodedBytes(sealer_.ShapeOf(capacity)) + kRunOverheadBytes +
         ObservedQueries::Bytes(NumObservedQueries(state), QueryFloats());
}

UnsealedRun KvStoreImpl::NewRun(const SequenceState& state,
                                int64_t page,
                                MemoryCharge charge) const {
  UnsealedRun run;
  run.first_position = std::max(state.grid.FirstPosition(page), state.base_tokens);
  run.token_capacity = static_cast<int32_t>(state.grid.EndPosition(page) - run.first_position);
  run.bytes.resize(state.policy.exact->EncodedBytes(sealer_.ShapeOf(run.token_capacity)));
  run.queries = QueriesOf(state, page);
  run.charge = std::move(charge);
  return run;
}

Result<void> KvStoreImpl::SealOld(SequenceState& state) {
  const int64_t end = state.grid.SealedEnd(state.length);
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<size_t>(layer);
    auto& runs = state.runs[row];
    // A run that no window reaches any more was dropped before it could be sealed.
    while (!runs.empty() && runs.begin()->first < end) {
      VARVE_RETURN_IF_ERROR(SealRun(state, layer, runs.begin()->first, runs.begin()->second));
      runs.erase(runs.begin());
    }
    state.sealed_end[row] = std::max(state.sealed_end[row], end);
  }
  return {};
}

// Encodes one run and puts the record where it will be found again: on disk if it is a context's,
// in the host tier if it is admitted there, else (a private page without room) in scratch.
Result<void> KvStoreImpl::SealRun(SequenceState& state,
                                  int32_t layer,
                                  int64_t page,
                                  const UnsealedRun& run) {
  const PageSegment own = OwnSegment(state, layer, PageSegment::Source::kSealed);
  const auto row = static_cast<uint16_t>(layer);
  const PageIdentity identity = own.IdentityOf(page, row, sealer_.ShapeOf(1));
  const RecordId id = own.IdOf(page, row);
  const uint64_t record_bytes =
      sealer_.SealedBytes(state.policy, identity) + MemoryTier::kRecordOverheadBytes;
  std::optional<MemoryCharge> charge = memory_.TryAdmit(record_bytes);
  if (!charge && disk_ == nullptr) {
    VARVE_TRY(charge, memory_.Reserve(record_bytes, "a sealed page"));
  }
  std::vector<std::byte> record = sealer_.Seal(state.policy, identity, run);
  if (charge) {
    charge->ShrinkTo(record.size() + MemoryTier::kRecordOverheadBytes);
  }
  const uint64_t sealed_bytes = record.size();
  const bool to_disk = disk_ != nullptr && (state.is_ingest || !charge);
  if (to_disk) {
    const std::span<const std::byte> bytes = record;
    const int64_t start_us = SystemClock().NowUs();
    VARVE_RETURN_IF_ERROR(disk_->PutPages({&id.key, 1}, {&bytes, 1}));
    counters_.disk_write_us += SystemClock().NowUs() - start_us;
    counters_.disk_bytes_written += record.size();
  }
  if (charge) {
    // A page sealed again (its first write failed half-way) replaces the one before.
    memory_.Erase(id);
    memory_.Insert(id,
                   std::make_shared<ResidentPage>(std::move(record), identity, std::move(*charge)),
                   to_disk);
  }
  if (window(layer) > 0) {
    WindowPages& held = state.is_ingest ? state.context->own->window_pages : state.window_pages;
    held[row].insert(page);
  } else if (state.is_ingest) {
    int64_t& sealed_end = state.context->own->sealed_end[row];
    sealed_end = std::max(sealed_end, page + 1);
  }
  AddToKeyIndex(state, layer, page);
  AddToLadder(state, layer, page, sealed_bytes);
  ++counters_.pages_sealed;
  ++counters_.num_pages;
  return {};
}

Result<void> KvStoreImpl::ErasePages(PageKey::Space space,
                                     uint64_t owner,
                                     int32_t layer,
                                     std::span<const int64_t> pages) {
  std::vector<PageKey> on_disk;
  const auto row = static_cast<uint16_t>(layer);
  for (const int64_t page : pages) {
    const PageKey key{space, owner, row, row, static_cast<uint64_t>(page)};
    if (memory_.Erase({key, 0}) != MemoryTier::Erased::kDirty) {
      on_disk.push_back(key);
    }
  }
  counters_.num_pages -= static_cast<int64_t>(pages.size());
  if (disk_ == nullptr || on_disk.empty()) {
    return {};
  }
  return disk_->DeletePages(on_disk);
}

Result<void> KvStoreImpl::ReleaseWindowPages(SequenceState& state) {
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    std::set<int64_t>& held = state.window_pages[static_cast<size_t>(layer)];
    const auto end = held.lower_bound(state.grid.FirstReachable(state.length, window(layer)));
    const std::vector<int64_t> pages(held.begin(), end);
    held.erase(held.begin(), end);
    VARVE_RETURN_IF_ERROR(ErasePages(state.space(), state.owner(), layer, pages));
  }
  return {};
}

}  // namespace varve
