// What changes about contexts without an ingest: names that are taken, forks, attributes, and which
// of them have expired.

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "coordinator/context_catalog.h"
#include "coordinator/text_model.h"
#include "proto/base/log.h"

namespace varve {
namespace {

// The last use is written down when what is durable lags behind by this share of the time to live,
// so that a crash ends no life much too early and reading a context costs few writes.
constexpr int64_t kLastUseShare = 16;

constexpr size_t kMaxNameLength = 128;

Result<void> CheckName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= kMaxNameLength &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                             (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
                    });
  if (!good || name == "." || name == "..") {
    return Error{ErrorCode::kInvalidArgument,
                 "A context name has 1 to 128 characters out of A-Z a-z 0-9 . _ - and is not "
                 "\".\" or \"..\"."};
  }
  return {};
}

Error NoSuchContext(const std::string& name) {
  return Error{ErrorCode::kNotFound, fmt::format("There is no context named '{}'.", name)};
}

}  // namespace

Result<ContextCatalog::Entry*> ContextCatalog::NewEntry(const std::string& name) {
  VARVE_RETURN_IF_ERROR(CheckName(name));
  if (entries_.contains(name)) {
    return Error{ErrorCode::kAlreadyExists,
                 fmt::format("A context named '{}' exists. Append to it or delete it.", name)};
  }
  if (entries_.size() >= limits_.max_contexts) {
    return Error{
        ErrorCode::kResourceExhausted,
        fmt::format("There are {} contexts, the limit. Delete some.", limits_.max_contexts)};
  }
  // Ids are never reused, also not after a restart that no longer sees the newest context: they
  // begin with the time.
  const auto seconds = static_cast<uint64_t>(clock_->UnixTimeS());
  last_id_ = std::max(last_id_ + 1, seconds << 20);
  // The name is taken from here on; nothing uses the context until the workers know it.
  Entry& entry = entries_[name];
  entry.manifest.id = ContextId{last_id_};
  entry.manifest.name = name;
  entry.manifest.created_unix_s = entry.manifest.updated_unix_s = clock_->UnixTimeS();
  entry.manifest.attributes.last_used_unix_s = clock_->UnixTimeS();
  entry.status = ContextStatus::kIngesting;
  entry.deleting = true;
  by_id_[entry.manifest.id] = &entry;
  return &entry;
}

void ContextCatalog::SetUsed(Entry* entry) {
  int64_t& last_used = entry->manifest.attributes.last_used_unix_s;
  last_used = std::max(last_used, clock_->UnixTimeS());
}

Result<ContextView> ContextCatalog::Fork(const std::string& source, const std::string& name) {
  ForkOptions options;
  {
    const std::lock_guard lock(mutex_);
    Entry* parent = Find(source);
    if (parent == nullptr) {
      return NoSuchContext(source);
    }
    VARVE_RETURN_IF_ERROR(CheckUsable(*parent));
    if (parent->manifest.version == 0) {
      return Error{ErrorCode::kConflict,
                   fmt::format("Nothing of context '{}' is committed yet. Fork it later.", source)};
    }
    VARVE_TRY(const Entry* reserved, NewEntry(name));
    SetUsed(parent);
    options = {.source = parent->manifest.id,
               .id = reserved->manifest.id,
               .name = name,
               .created_unix_s = reserved->manifest.created_unix_s};
  }
  Result<ContextManifest> forked = workers_->ForkContext(options);
  const std::lock_guard lock(mutex_);
  if (!forked) {
    by_id_.erase(options.id);
    entries_.erase(name);
    return forked.error();
  }
  return ViewOf(*SetReady(name, *std::move(forked)));
}

Result<ContextView> ContextCatalog::Change(const std::string& name, const AttributeChange& change) {
  ContextManifest changed;
  {
    const std::lock_guard lock(mutex_);
    Entry* entry = Find(name);
    if (entry == nullptr) {
      return NoSuchContext(name);
    }
    if (entry->deleting) {
      return CheckUsable(*entry).error();
    }
    SetUsed(entry);
    changed = entry->manifest;
  }
  changed.attributes.pinned = change.pinned.value_or(changed.attributes.pinned);
  changed.attributes.ttl_s = change.ttl_s.value_or(changed.attributes.ttl_s);
  VARVE_RETURN_IF_ERROR(workers_->UpdateContext(changed));
  const std::lock_guard lock(mutex_);
  // Only the engine deletes, and it is what calls this.
  Entry& entry = entries_.at(name);
  entry.manifest.attributes.pinned = changed.attributes.pinned;
  entry.manifest.attributes.ttl_s = changed.attributes.ttl_s;
  entry.durable_last_used_s = changed.attributes.last_used_unix_s;
  return ViewOf(entry);
}

std::vector<std::string> ContextCatalog::TakeExpired() {
  std::vector<std::string> expired;
  std::vector<ContextManifest> lagging;
  {
    const std::lock_guard lock(mutex_);
    const int64_t now_s = clock_->UnixTimeS();
    for (auto& [name, entry] : entries_) {
      const ContextAttributes& attributes = entry.manifest.attributes;
      if (attributes.ttl_s == 0 || entry.deleting || entry.manifest.version == 0) {
        continue;
      }
      const bool in_use =
          entry.num_leases > 0 || HasText(entry) || entry.status == ContextStatus::kIngesting;
      if (in_use) {
        SetUsed(&entry);
      } else if (!attributes.pinned && now_s - attributes.last_used_unix_s >= attributes.ttl_s) {
        expired.push_back(name);
        continue;
      }
      const int64_t lag_s = attributes.last_used_unix_s - entry.durable_last_used_s;
      if (lag_s > attributes.ttl_s / kLastUseShare) {
        entry.durable_last_used_s = attributes.last_used_unix_s;
        lagging.push_back(entry.manifest);
      }
    }
  }
  for (const ContextManifest& manifest : lagging) {
    if (const Result<void> written = workers_->UpdateContext(manifest); !written) {
      SPDLOG_WARN("last use of context '{}': {}", manifest.name, written.error().ToString());
    }
  }
  return expired;
}

Result<ImportOptions> ContextCatalog::BeginImport(const std::string& name) {
  const std::lock_guard lock(mutex_);
  VARVE_TRY(const Entry* reserved, NewEntry(name));
  return ImportOptions{.id = reserved->manifest.id,
                       .name = name,
                       .tokenizer_hash = text_model_->content_hash(),
                       .now_unix_s = clock_->UnixTimeS()};
}

Result<ContextView> ContextCatalog::EndImport(const ImportOptions& options,
                                              Result<ContextManifest> imported) {
  const std::lock_guard lock(mutex_);
  if (!imported) {
    by_id_.erase(options.id);
    entries_.erase(options.name);
    return imported.error();
  }
  return ViewOf(*SetReady(options.name, *std::move(imported)));
}

ContextCatalog::Entry* ContextCatalog::SetReady(const std::string& name, ContextManifest manifest) {
  Entry& entry = entries_.at(name);
  entry.manifest = std::move(manifest);
  entry.durable_last_used_s = entry.manifest.attributes.last_used_unix_s;
  entry.status = ContextStatus::kReady;
  entry.deleting = false;
  ResetToCommit(&entry);
  return &entry;
}

}  // namespace varve
