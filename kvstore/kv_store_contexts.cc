#include <algorithm>

#include <fmt/format.h>

#include "kvstore/kv_store_impl.h"
#include "proto/base/clock.h"

namespace varve {
namespace {

constexpr uint64_t kContextBytes = 1024;
constexpr uint64_t kContextLayerBytes = 128;

}  // namespace

Result<std::shared_ptr<ContextState>> KvStoreImpl::FindContext(ContextId context) const {
  const auto found = contexts_.find(context);
  if (found == contexts_.end()) {
    return Error{ErrorCode::kNotFound, fmt::format("context {} does not exist", context.value)};
  }
  return found->second;
}

Result<std::shared_ptr<ContextState>> KvStoreImpl::NewContext(const ContextManifest& manifest) {
  if (contexts_.contains(manifest.id)) {
    return Error{ErrorCode::kAlreadyExists,
                 fmt::format("context {} is registered already", manifest.id.value)};
  }
  auto context = std::make_shared<ContextState>();
  context->committed = manifest;
  VARVE_TRY(context->policy, ResolvedPolicy::Resolve(manifest.policy, options_.geometry));
  context->grid = PageGrid(
      manifest.policy, options_.shard, manifest.grid_owner().value, manifest.shared_pages());
  uint64_t bytes = kContextBytes + kContextLayerBytes * static_cast<uint64_t>(num_layers());
  if (context->policy.selects_pages) {
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      context->key_indexes.emplace_back(options_.geometry, manifest.policy.page_tokens);
    }
    bytes += chooser_.WorkspaceBytes(NumKeyClusters(manifest.policy.page_tokens));
  }
  VARVE_TRY(context->charge, memory_.Reserve(bytes, "a context"));
  VARVE_RETURN_IF_ERROR(ReserveDemoter(context->policy));
  return context;
}

Result<void> KvStoreImpl::CheckSnapshot(const ContextState& context, int64_t base_tokens) const {
  const uint64_t id = context.committed.id.value;
  const int64_t length = context.committed.num_tokens;
  if (base_tokens < 0 || base_tokens > length) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("context {} has {} committed tokens, not {}", id, length, base_tokens)};
  }
  const int64_t cut_page = context.grid.PageOf(base_tokens);
  if (context.policy.tokens != nullptr && cut_page < context.grid.SealedEnd(length) &&
      base_tokens > context.grid.FirstPosition(cut_page)) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context {} is {} tokens long and has pruned the page in which a "
                             "request behind {} tokens begins",
                             id,
                             length,
                             base_tokens)};
  }
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    if (context.grid.FirstReachable(base_tokens, window(layer)) <
        context.grid.FirstReachable(length, window(layer))) {
      return Error{
          ErrorCode::kConflict,
          fmt::format("context {} is {} tokens long and its sliding-window layers no longer hold "
                      "what a request behind {} tokens reads",
                      id,
                      length,
                      base_tokens)};
    }
  }
  return {};
}

Result<void> KvStoreImpl::CreateContext(const ContextManifest& manifest) {
  if (manifest.num_tokens != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("a new context has no tokens, but the manifest of context {} names {}",
                             manifest.id.value,
                             manifest.num_tokens)};
  }
  VARVE_TRY(auto context, NewContext(manifest));
  AddContext(std::move(context));
  return {};
}

Result<void> KvStoreImpl::RecoverContext(const ContextManifest& manifest) {
  if (disk_ == nullptr) {
    return Error{ErrorCode::kInvalidArgument,
                 "a store without a disk tier has no context to recover"};
  }
  VARVE_TRY(const auto context, NewContext(manifest));
  AddContext(context);
  for (const std::shared_ptr<PageOwner>& owner : OwnersOf(*context)) {
    VARVE_RETURN_IF_ERROR(FillLadder(*owner));
  }
  plan_is_due_ = true;
  PublishRungs();
  return {};
}

Result<void> KvStoreImpl::PrepareCommit(SequenceId sequence, const ContextManifest& manifest) {
  VARVE_TRY(SequenceState * state, FindSequence(sequence));
  if (!state->is_ingest || state->context->committed.id != manifest.id) {
    return Error{
        ErrorCode::kConflict,
        fmt::format(
            "sequence {} is not the ingest of context {}", sequence.value, manifest.id.value)};
  }
  const ContextManifest& committed = state->context->committed;
  if (manifest.version <= committed.version || manifest.num_tokens != state->length ||
      state->step_tokens != 0) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context {} is at version {} and its ingest {} tokens long{}: version "
                             "{} of {} tokens cannot "
                             "be committed",
                             manifest.id.value,
                             committed.version,
                             state->length,
                             state->step_tokens != 0 ? " in a step" : "",
                             manifest.version,
                             manifest.num_tokens)};
  }
  if (manifest.policy != committed.policy || manifest.model_hash != committed.model_hash) {
    return Error{
        ErrorCode::kConflict,
        fmt::format("the policy and the model of context {} cannot change", manifest.id.value)};
  }
  VARVE_RETURN_IF_ERROR(SealOld(*state));  // pages whose sealing failed in a step
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    for (const auto& [page, run] : state->runs[static_cast<size_t>(layer)]) {
      VARVE_RETURN_IF_ERROR(WriteTail(*state, layer, page, run, manifest.version));
    }
  }
  return {};
}

Result<void> KvStoreImpl::WriteTail(const SequenceState& state,
                                    int32_t layer,
                                    int64_t page,
                                    const UnsealedRun& run,
                                    uint64_t version) {
  PageSegment tails = CommittedSegment(*state.context, PageSegment::Source::kTail);
  tails.owner = state.owner();
  tails.tail_version = version;
  tails.length = state.length;
  const auto row = static_cast<uint16_t>(layer);
  const PageIdentity identity = tails.IdentityOf(page, row, sealer_.ShapeOf(1));
  const RecordId id = tails.IdOf(page, row);
  const uint64_t record_bytes =
      sealer_.TailBytes(state.policy, identity) + MemoryTier::kRecordOverheadBytes;
  memory_.Erase(id);  // of a preparation that was not committed
  std::optional<MemoryCharge> charge = memory_.TryAdmit(record_bytes);
  if (!charge && disk_ == nullptr) {
    VARVE_TRY(charge, memory_.Reserve(record_bytes, "the committed tail of a context"));
  }
  std::vector<std::byte> record = sealer_.WriteTail(state.policy, identity, run);
  if (disk_ != nullptr) {
    const int64_t start_us = SystemClock().NowUs();
    VARVE_RETURN_IF_ERROR(disk_->PutTail(state.context->committed.id, version, id.key, record));
    counters_.disk_write_us += SystemClock().NowUs() - start_us;
    counters_.disk_bytes_written += record.size();
  }
  if (charge) {
    memory_.Insert(id,
                   std::make_shared<ResidentPage>(std::move(record), identity, std::move(*charge)),
                   disk_ != nullptr);
  }
  return {};
}

Result<void> KvStoreImpl::FinishCommit(const ContextManifest& manifest) {
  VARVE_TRY(auto context, FindContext(manifest.id));
  if (manifest.version <= context->committed.version) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context {} is at version {} already, not before {}",
                             manifest.id.value,
                             context->committed.version,
                             manifest.version)};
  }
  context->committed = manifest;
  context->tail_owner = context->own;
  context->own->tail_versions.insert(manifest.version);
  plan_is_due_ = true;
  PublishRungs();
  return ReleaseUnneeded(*context);
}

// Back to the committed state: what was sealed beyond it is deleted.
Result<void> KvStoreImpl::CloseIngest(SequenceState& state) {
  ContextState& context = *state.context;
  context.ingest.reset();
  const int64_t first = context.grid.SealedEnd(context.committed.num_tokens);
  for (KeyIndex& index : context.key_indexes) {
    index.Truncate(context.grid.CountOwned(0, first));
  }
  if (PageLadder* ladder = context.own->ladder.get(); ladder != nullptr) {
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      ladder->Truncate(layer, LadderIndex(*context.own, context.grid, first));
    }
  }
  Result<void> closed = ReleaseWindowPages(*context.own);
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    if (window(layer) > 0) {
      continue;
    }
    std::vector<int64_t> pages;
    int64_t& end = context.own->sealed_end[static_cast<size_t>(layer)];
    for (int64_t page = context.grid.NextOwned(first); page < end;
         page = context.grid.NextOwned(page + 1)) {
      pages.push_back(page);
    }
    end = std::min(end, first);
    Result<void> erased =
        ErasePages(PageKey::Space::kContext, context.committed.id.value, layer, pages);
    closed = closed ? std::move(erased) : std::move(closed);
  }
  return closed;
}

Result<void> KvStoreImpl::DeleteContext(ContextId context) {
  VARVE_TRY(auto state, FindContext(context));
  if (state->in_use()) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context {} is in use by {} requests{}",
                             context.value,
                             state->snapshot_tails.size(),
                             state->ingest ? " and its ingest" : "")};
  }
  if (demoter_.is_busy()) {
    for (const std::shared_ptr<PageOwner>& owner : OwnersOf(*state)) {
      if (owner->id == demoter_.owner()) {
        ApplyDemotions(demoter_.Take(true));
        break;
      }
    }
  }
  // The manifest has to go before the pages do, so the disk tier deletes all of it, for all
  // workers; a second call finds nothing.
  if (disk_ != nullptr) {
    VARVE_RETURN_IF_ERROR(disk_->DeleteContext(context));
  }
  contexts_.erase(context);
  Result<void> removed = RemoveContext(*state);
  PublishRungs();
  return removed;
}

}  // namespace varve
