// Who holds what: forks read pages and tails under the id of the context that wrote them, and these
// stay for as long as a registered context reads them.
#include <algorithm>

#include <fmt/format.h>

#include "kvstore/kv_store_impl.h"
#include "proto/base/clock.h"

namespace varve {
OwnedRange KvStoreImpl::RangeOf(const ContextState& context, const PageOwner& owner) {
  for (const OwnedRange& range : context.shared) {
    if (range.owner.get() == &owner) {
      return range;
    }
  }
  return {context.own, owner.first_page, INT64_MAX};
}

std::vector<std::shared_ptr<PageOwner>> KvStoreImpl::OwnersOf(const ContextState& context) {
  std::vector<std::shared_ptr<PageOwner>> owners;
  for (const OwnedRange& range : context.shared) {
    owners.push_back(range.owner);
  }
  owners.push_back(context.own);
  return owners;
}

bool KvStoreImpl::IsLive(const PageOwner& owner) {
  return std::any_of(owner.readers.begin(), owner.readers.end(), [&](const ContextState* reader) {
    return reader->own.get() == &owner;
  });
}

std::shared_ptr<PageOwner> KvStoreImpl::OwnerOf(ContextId id, int64_t first_page) {
  std::shared_ptr<PageOwner>& owner = owners_[id.value];
  if (owner == nullptr) {
    owner = std::make_shared<PageOwner>();
    owner->id = id.value;
    owner->first_page = first_page;
    owner->sealed_end.assign(static_cast<size_t>(num_layers()), first_page);
    owner->window_pages.resize(static_cast<size_t>(num_layers()));
  }
  return owner;
}

void KvStoreImpl::AddContext(std::shared_ptr<ContextState> context) {
  const ContextManifest& manifest = context->committed;
  auto shared_ranges = std::make_shared<std::vector<SharedRange>>();
  int64_t first_page = 0;
  for (const LineagePart& part : manifest.lineage) {
    context->shared.push_back({OwnerOf(part.owner, first_page), first_page, part.end_page});
    shared_ranges->push_back({part.owner.value, part.end_page});
    first_page = part.end_page;
  }
  context->shared_ranges = std::move(shared_ranges);
  context->own = OwnerOf(manifest.id, first_page);
  context->tail_owner =
      manifest.tail.owner.value == 0 ? context->own : context->shared.back().owner;
  context->tail_owner->tail_versions.insert(manifest.committed_tail().version);
  context->own->tail_versions.insert(manifest.version);
  for (const OwnedRange& range : context->shared) {
    HoldPages(*context, range);
  }
  HoldPages(*context, {context->own, first_page, manifest.sealed_pages()});
  for (const std::shared_ptr<PageOwner>& owner : OwnersOf(*context)) {
    owner->readers.push_back(context.get());
    if (context->policy.has_ladder() && owner->ladder == nullptr) {
      owner->ladder = std::make_unique<PageLadder>(num_layers());
      owner->last_read_us = SystemClock().NowUs();
    }
  }
  contexts_.emplace(manifest.id, std::move(context));
}

void KvStoreImpl::HoldPages(const ContextState& context, const OwnedRange& range) {
  PageOwner& owner = *range.owner;
  const PageGrid& grid = context.grid;
  counters_.num_pages -= NumSealedPages(owner, grid);
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<size_t>(layer);
    if (window(layer) == 0) {
      owner.sealed_end[row] = std::max(owner.sealed_end[row], range.end_page);
      continue;
    }
    const int64_t reachable = grid.FirstReachable(context.committed.num_tokens, window(layer));
    int64_t page = grid.NextOwned(std::max(range.first_page, reachable));
    for (; page < range.end_page; page = grid.NextOwned(page + 1)) {
      owner.window_pages[row].insert(page);
    }
  }
  counters_.num_pages += NumSealedPages(owner, grid);
}

int64_t KvStoreImpl::NumSealedPages(const PageOwner& owner, const PageGrid& grid) const {
  int64_t pages = 0;
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const auto row = static_cast<size_t>(layer);
    pages += window(layer) > 0 ? static_cast<int64_t>(owner.window_pages[row].size())
                               : grid.CountOwned(owner.first_page, owner.sealed_end[row]);
  }
  return pages;
}

Result<void> KvStoreImpl::RemoveContext(ContextState& context) {
  const PageGrid grid = context.grid;
  Result<void> removed;
  plan_.clear();  // it may name pages that go
  plan_is_due_ = true;
  for (const std::shared_ptr<PageOwner>& owner : OwnersOf(context)) {
    std::erase(owner->readers, &context);
    if (owner->readers.empty()) {
      counters_.num_pages -= NumSealedPages(*owner, grid);
      memory_.EraseOwner(PageKey::Space::kContext, owner->id);
      owners_.erase(owner->id);
      continue;
    }
    ForgetUnreadPages(*owner, grid);
    Result<void> released = ReleaseUnneeded(*owner);
    removed = removed ? std::move(released) : std::move(removed);
  }
  return removed;
}

// The disk tier has deleted them already.
void KvStoreImpl::ForgetUnreadPages(PageOwner& owner, const PageGrid& grid) {
  if (IsLive(owner)) {
    return;
  }
  int64_t end = owner.first_page;
  for (const ContextState* reader : owner.readers) {
    end = std::max(end, RangeOf(*reader, owner).end_page);
  }
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    int64_t& sealed_end = owner.sealed_end[static_cast<size_t>(layer)];
    if (window(layer) > 0 || sealed_end <= end) {
      continue;
    }
    const auto row = static_cast<uint16_t>(layer);
    for (int64_t page = grid.NextOwned(end); page < sealed_end; page = grid.NextOwned(page + 1)) {
      memory_.Erase(
          {{PageKey::Space::kContext, owner.id, row, row, static_cast<uint64_t>(page)}, 0});
      --counters_.num_pages;
    }
    sealed_end = end;
    if (owner.ladder != nullptr) {
      owner.ladder->Truncate(layer, LadderIndex(owner, grid, end));
    }
  }
}

Result<void> KvStoreImpl::ReleaseUnneeded(const ContextState& context) {
  Result<void> released;
  for (const std::shared_ptr<PageOwner>& owner : OwnersOf(context)) {
    Result<void> one = ReleaseUnneeded(*owner);
    released = released ? std::move(one) : std::move(released);
  }
  return released;
}

// Old tails go when no snapshot and no fork reads them, window pages when nothing reaches them.
Result<void> KvStoreImpl::ReleaseUnneeded(PageOwner& owner) {
  std::set<uint64_t> kept;
  uint64_t newest = UINT64_MAX;  // of a deleted context all are old
  for (const ContextState* reader : owner.readers) {
    if (reader->tail_owner.get() == &owner) {
      kept.insert(reader->committed.committed_tail().version);
    }
    if (reader->own.get() == &owner) {
      newest = reader->committed.version;
      kept.insert(newest);
    }
    for (const TailRef& tail : reader->snapshot_tails) {
      if (tail.owner.value == owner.id) {
        kept.insert(tail.version);
      }
    }
  }
  if (!std::includes(
          kept.begin(), kept.end(), owner.tail_versions.begin(), owner.tail_versions.end())) {
    const std::vector<uint64_t> kept_tails(kept.begin(), kept.end());
    owner.tail_versions = std::move(kept);
    memory_.EraseTailsBefore(owner.id, newest, kept_tails);
    if (disk_ != nullptr) {
      VARVE_RETURN_IF_ERROR(disk_->DropOlderVersions(ContextId{owner.id}, newest, kept_tails));
    }
  }
  return ReleaseWindowPages(owner);
}

// A page stays while a committed state, a request's snapshot or the ingest reaches it. What a
// committed state needs is thereby never deleted before a newer state is committed.
Result<void> KvStoreImpl::ReleaseWindowPages(PageOwner& owner) {
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    std::set<int64_t>& held = owner.window_pages[static_cast<size_t>(layer)];
    std::vector<int64_t> pages;
    for (const int64_t page : held) {
      const bool needed =
          std::any_of(owner.readers.begin(), owner.readers.end(), [&](const ContextState* reader) {
            return Reaches(*reader, owner, layer, page);
          });
      if (!needed) {
        pages.push_back(page);
      }
    }
    for (const int64_t page : pages) {
      held.erase(page);
    }
    VARVE_RETURN_IF_ERROR(ErasePages(PageKey::Space::kContext, owner.id, layer, pages));
  }
  return {};
}

bool KvStoreImpl::Reaches(const ContextState& context,
                          const PageOwner& owner,
                          int32_t layer,
                          int64_t page) const {
  const OwnedRange range = RangeOf(context, owner);
  if (page < range.first_page || page >= range.end_page) {
    return false;
  }
  int64_t oldest = context.committed.num_tokens;
  if (!context.snapshot_tokens.empty()) {
    oldest = std::min(oldest, *context.snapshot_tokens.begin());
  }
  if (page >= context.grid.FirstReachable(oldest, window(layer)) &&
      page < context.committed.sealed_pages()) {
    return true;
  }
  return context.ingest &&
         page >= context.grid.FirstReachable(sequences_.at(*context.ingest).length, window(layer));
}

// A live owner counts all that it has; else the reader that was made first.
const ContextState* KvStoreImpl::CountedAt(const PageOwner& owner,
                                           int32_t layer,
                                           int64_t page) const {
  const ContextState* counted_at = nullptr;
  for (const ContextState* reader : owner.readers) {
    if (reader->own.get() == &owner) {
      return reader;
    }
    if ((counted_at == nullptr || reader->committed.id < counted_at->committed.id) &&
        Reaches(*reader, owner, layer, page)) {
      counted_at = reader;
    }
  }
  return counted_at;
}

const ContextState* KvStoreImpl::TailCountedAt(const ContextState& context) {
  const ContextState* counted_at = &context;
  for (const ContextState* reader : context.tail_owner->readers) {
    if (reader->committed.committed_tail() == context.committed.committed_tail() &&
        reader->committed.id < counted_at->committed.id) {
      counted_at = reader;
    }
  }
  return counted_at;
}

Result<void> KvStoreImpl::ForkContext(ContextId source, const ContextManifest& manifest) {
  VARVE_TRY(const auto parent, FindContext(source));
  VARVE_TRY(const ContextManifest expected,
            ForkOf(parent->committed, {.source = source, .id = manifest.id}));
  if (manifest.lineage != expected.lineage || manifest.tail != expected.tail ||
      manifest.num_tokens != expected.num_tokens || manifest.version != expected.version ||
      manifest.policy != expected.policy || manifest.model_hash != expected.model_hash) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context {} is not a fork of what context {} has committed",
                             manifest.id.value,
                             source.value)};
  }
  VARVE_TRY(auto context, NewContext(manifest));
  AddContext(std::move(context));
  return {};
}

Result<void> KvStoreImpl::UpdateContext(const ContextManifest& manifest) {
  VARVE_TRY(const auto context, FindContext(manifest.id));
  context->committed.attributes = manifest.attributes;
  plan_is_due_ = true;
  return {};
}

// Pages that a commit made superfluous and that a crash kept from being deleted (sliding windows),
// and tails of old versions. Sealed pages beyond the committed length were deleted when the disk
// tier was opened.
Result<void> KvStoreImpl::FinishRecovery() {
  for (const auto& [id, owner] : owners_) {
    std::vector<uint64_t> kept(owner->tail_versions.begin(), owner->tail_versions.end());
    const uint64_t newest = IsLive(*owner) ? kept.back() : UINT64_MAX;
    VARVE_RETURN_IF_ERROR(disk_->DropOlderVersions(ContextId{id}, newest, kept));
    const PageGrid& grid = owner->readers.front()->grid;
    for (int32_t layer = 0; layer < num_layers(); ++layer) {
      if (window(layer) == 0) {
        continue;
      }
      VARVE_TRY(std::vector<PageKey> keys,
                disk_->ListLayerPages(ContextId{id}, static_cast<uint16_t>(layer)));
      const auto& held = owner->window_pages[static_cast<size_t>(layer)];
      std::erase_if(keys, [&](const PageKey& key) {
        const auto page = static_cast<int64_t>(key.page);
        return !grid.Owns(page) || held.contains(page);
      });
      VARVE_RETURN_IF_ERROR(disk_->DeletePages(keys));
    }
  }
  return {};
}

}  // namespace varve
