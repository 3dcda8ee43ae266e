#include "coordinator/context_catalog.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "coordinator/text_model.h"

namespace varve {
namespace {

Error NoSuchContext(const std::string& name) {
  return Error{ErrorCode::kNotFound, fmt::format("There is no context named '{}'.", name)};
}

}  // namespace

ContextLease::ContextLease(ContextCatalog* catalog, const ContextManifest& manifest)
    : catalog_(catalog),
      id_(manifest.id),
      num_tokens_(manifest.num_tokens),
      policy_(manifest.policy) {}

ContextLease::~ContextLease() {
  Release();
}

ContextLease::ContextLease(ContextLease&& other) noexcept
    : catalog_(std::exchange(other.catalog_, nullptr)),
      id_(other.id_),
      num_tokens_(other.num_tokens_),
      policy_(std::move(other.policy_)) {}

ContextLease& ContextLease::operator=(ContextLease&& other) noexcept {
  if (this != &other) {
    Release();
    catalog_ = std::exchange(other.catalog_, nullptr);
    id_ = other.id_;
    num_tokens_ = other.num_tokens_;
    policy_ = std::move(other.policy_);
  }
  return *this;
}

void ContextLease::Release() {
  if (catalog_ != nullptr) {
    std::exchange(catalog_, nullptr)->Release(id_);
  }
}

ContextCatalog::ContextCatalog(const CatalogLimits& limits,
                               WorkerGroup* workers,
                               const TextModel* text_model,
                               const Clock* clock)
    : limits_(limits), workers_(workers), text_model_(text_model), clock_(clock) {}

Result<void> ContextCatalog::Load() {
  VARVE_TRY(std::vector<ContextManifest> manifests, workers_->ListContexts());
  const std::lock_guard lock(mutex_);
  for (ContextManifest& manifest : manifests) {
    Entry entry;
    if (manifest.model_hash != workers_->model().model_hash) {
      entry.mismatch =
          Error{ErrorCode::kModelMismatch,
                fmt::format("Context '{}' was made with the model {}, this server runs {} ({}, "
                            "weights: {}).",
                            manifest.name,
                            HashToHex(manifest.model_hash),
                            HashToHex(workers_->model().model_hash),
                            workers_->model().name,
                            workers_->model().weights)};
    } else if (manifest.tokenizer_hash != text_model_->content_hash()) {
      entry.mismatch =
          Error{ErrorCode::kModelMismatch,
                fmt::format("Context '{}' was made with the tokenizer {}, this server has {}.",
                            manifest.name,
                            HashToHex(manifest.tokenizer_hash),
                            HashToHex(text_model_->content_hash()))};
    }
    if (entry.mismatch) {
      entry.status = ContextStatus::kFailed;
      entry.error = entry.mismatch->message;
    }
    last_id_ = std::max(last_id_, manifest.id.value);
    entry.received_bytes = manifest.text_bytes;
    entry.received_hash = manifest.text_hash;
    entry.cut_bytes = manifest.text_bytes;
    entry.durable_last_used_s = manifest.attributes.last_used_unix_s;
    const std::string name = manifest.name;
    entry.manifest = std::move(manifest);
    Entry& stored = entries_.insert_or_assign(name, std::move(entry)).first->second;
    by_id_[stored.manifest.id] = &stored;
  }
  return {};
}

void ContextCatalog::SetListener(std::function<void()> listener) {
  listener_ = std::move(listener);
}

Result<ContextView> ContextCatalog::Create(const std::string& name,
                                           std::string text,
                                           const KvPolicy& policy,
                                           const AttributeChange& attributes) {
  ContextManifest manifest;
  {
    const std::lock_guard lock(mutex_);
    VARVE_RETURN_IF_ERROR(CheckRoom(text.size()));
    VARVE_TRY(Entry * reserved, NewEntry(name));
    Entry& entry = *reserved;
    entry.manifest.model_hash = workers_->model().model_hash;
    entry.manifest.tokenizer_hash = text_model_->content_hash();
    entry.manifest.text_hash = Hash64(std::string_view());
    entry.manifest.policy = policy;
    entry.manifest.attributes.pinned = attributes.pinned.value_or(false);
    entry.manifest.attributes.ttl_s = attributes.ttl_s.value_or(0);
    manifest = entry.manifest;
    ResetToCommit(&entry);
    entry.received_hasher = std::make_unique<Hasher64>();
    entry.cut_hasher = std::make_unique<Hasher64>();
  }
  const Result<void> created = workers_->CreateContext(manifest);
  std::optional<ContextView> view;
  {
    const std::lock_guard lock(mutex_);
    if (!created) {
      by_id_.erase(manifest.id);
      entries_.erase(name);
      return created.error();
    }
    Entry& entry = entries_.at(name);
    entry.deleting = false;
    Receive(&entry, std::move(text));
    view = ViewOf(entry);
  }
  text_arrived_.notify_one();
  return *std::move(view);
}

Result<ContextView> ContextCatalog::Append(const std::string& name,
                                           uint64_t offset,
                                           uint64_t hash,
                                           std::string text,
                                           std::optional<AppendConflict>* conflict) {
  std::unique_lock lock(mutex_);
  VARVE_RETURN_IF_ERROR(EnsureHashers(name, &lock));
  Entry* entry = Find(name);
  if (entry == nullptr) {
    return NoSuchContext(name);
  }
  VARVE_RETURN_IF_ERROR(CheckUsable(*entry));
  if (offset != entry->received_bytes || hash != entry->received_hash) {
    *conflict = AppendConflict{entry->received_bytes, entry->received_hash};
    return Error{
        ErrorCode::kConflict,
        fmt::format("The server has received {} bytes of context '{}' with hash {}; the append "
                    "says it continues {} bytes with hash {}. Go on from what the server has.",
                    entry->received_bytes,
                    name,
                    HashToHex(entry->received_hash),
                    offset,
                    HashToHex(hash))};
  }
  VARVE_RETURN_IF_ERROR(CheckRoom(text.size()));
  if (entry->received_hasher == nullptr) {
    return Error{ErrorCode::kConflict,
                 fmt::format("Context '{}' changed during the append. Send it again.", name)};
  }
  Receive(entry, std::move(text));
  ContextView view = ViewOf(*entry);
  lock.unlock();
  text_arrived_.notify_one();
  return view;
}

Result<ContextView> ContextCatalog::Show(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) {
    return NoSuchContext(name);
  }
  return ViewOf(it->second);
}

std::vector<ContextView> ContextCatalog::List() const {
  const std::lock_guard lock(mutex_);
  std::vector<ContextView> views;
  for (const auto& [name, entry] : entries_) {
    views.push_back(ViewOf(entry));
  }
  return views;
}

Result<ContextLease> ContextCatalog::Acquire(const std::string& name) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) {
    return NoSuchContext(name);
  }
  VARVE_RETURN_IF_ERROR(CheckUsable(*entry));
  if (entry->status == ContextStatus::kIngesting) {
    return Error{ErrorCode::kConflict,
                 fmt::format("Context '{}' is still ingesting ({} tokens committed). Ask again "
                             "when its status is \"ready\".",
                             name,
                             entry->manifest.num_tokens)};
  }
  if (entry->status == ContextStatus::kFailed) {
    return Error{
        ErrorCode::kConflict,
        fmt::format(
            "Context '{}' is incomplete: {} Append the missing text first.", name, entry->error)};
  }
  ++entry->num_leases;
  SetUsed(entry);
  return ContextLease(this, entry->manifest);
}

// --- Private ---

ContextCatalog::Entry* ContextCatalog::Find(const std::string& name) {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second;
}

ContextCatalog::Entry* ContextCatalog::Find(ContextId context) {
  return const_cast<Entry*>(std::as_const(*this).Find(context));
}

const ContextCatalog::Entry* ContextCatalog::Find(ContextId context) const {
  const auto it = by_id_.find(context);
  return it == by_id_.end() ? nullptr : it->second;
}

ContextView ContextCatalog::ViewOf(const Entry& entry) const {
  int64_t tokens_pending = entry.waiting_tokens;
  for (const IngestPiece& piece : entry.pieces) {
    tokens_pending += static_cast<int64_t>(piece.tokens.size());
  }
  const double tokens_per_byte = tokenised_bytes_ == 0 ? 0.25
                                                       : static_cast<double>(tokenised_tokens_) /
                                                             static_cast<double>(tokenised_bytes_);
  tokens_pending += static_cast<int64_t>(static_cast<double>(entry.uncut_bytes) * tokens_per_byte);
  return ContextView{.manifest = entry.manifest,
                     .status = entry.status,
                     .error = entry.error,
                     .tokens_computed = entry.manifest.num_tokens + entry.computed_tokens,
                     .tokens_pending = tokens_pending,
                     .text_bytes_received = entry.received_bytes,
                     .text_hash_received = entry.received_hash};
}

uint64_t ContextCatalog::PendingBytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, entry] : entries_) {
    bytes += entry.received_bytes - entry.manifest.text_bytes;
  }
  return bytes;
}

Result<void> ContextCatalog::CheckUsable(const Entry& entry) const {
  if (entry.mismatch) {
    return *entry.mismatch;
  }
  if (entry.deleting) {
    return Error{ErrorCode::kConflict,
                 fmt::format("Context '{}' is being created or deleted.", entry.manifest.name)};
  }
  return {};
}

Result<void> ContextCatalog::CheckRoom(size_t text_bytes) const {
  const uint64_t pending = PendingBytes();
  if (pending + text_bytes > limits_.max_pending_bytes) {
    return Error{ErrorCode::kResourceExhausted,
                 fmt::format("{} bytes of received text wait to be ingested; {} more would pass "
                             "the limit of {}. Send them later.",
                             pending,
                             text_bytes,
                             limits_.max_pending_bytes)};
  }
  return {};
}

Result<void> ContextCatalog::EnsureHashers(const std::string& name,
                                           std::unique_lock<std::mutex>* lock) {
  Entry* entry = Find(name);
  if (entry == nullptr || entry->mismatch || entry->deleting || entry->received_hasher != nullptr) {
    return {};
  }
  // Nothing is pending, or there would be hashers: the committed text is all there is.
  const ContextManifest manifest = entry->manifest;
  auto received = std::make_unique<Hasher64>();
  auto cut = std::make_unique<Hasher64>();
  if (manifest.text_bytes > 0) {
    lock->unlock();
    Result<std::string> text = workers_->ReadContextText(manifest.id);
    if (text) {
      received->Update(*text);
      cut->Update(*text);
    }
    lock->lock();
    if (!text) {
      return text.error();
    }
    if (text->size() != manifest.text_bytes || received->Digest() != manifest.text_hash) {
      return Error{
          ErrorCode::kInternal,
          fmt::format("The stored text of context '{}' is not the text of its manifest.", name)};
    }
    entry = Find(name);
  }
  // Another append may have been faster, or a delete.
  if (entry != nullptr && entry->manifest.id == manifest.id &&
      entry->manifest.version == manifest.version && entry->received_hasher == nullptr) {
    entry->received_hasher = std::move(received);
    entry->cut_hasher = std::move(cut);
  }
  return {};
}

void ContextCatalog::Receive(Entry* entry, std::string text) {
  if (entry->status != ContextStatus::kIngesting || entry->uncut_bytes == 0) {
    entry->upload_order = ++next_upload_;
  }
  SetUsed(entry);
  entry->status = ContextStatus::kIngesting;
  entry->error.clear();
  entry->received_hasher->Update(text);
  entry->received_hash = entry->received_hasher->Digest();
  entry->received_bytes += text.size();
  entry->uncut_bytes += text.size();
  entry->uploads.push_back(std::move(text));
}

void ContextCatalog::ResetToCommit(Entry* entry) {
  ++entry->generation;
  entry->received_bytes = entry->manifest.text_bytes;
  entry->received_hash = entry->manifest.text_hash;
  entry->received_hasher.reset();
  entry->cut_hasher.reset();
  entry->uploads.clear();
  entry->front_offset = 0;
  entry->uncut_bytes = 0;
  entry->cut_bytes = entry->manifest.text_bytes;
  entry->pieces.clear();
  entry->computed_tokens = 0;
  entry->waiting_tokens = 0;
}

void ContextCatalog::Release(ContextId context) {
  {
    const std::lock_guard lock(mutex_);
    Entry* entry = Find(context);
    VARVE_CHECK(entry != nullptr && entry->num_leases > 0);
    --entry->num_leases;
    SetUsed(entry);
  }
  Notify();
}

void ContextCatalog::Notify() {
  if (listener_) {
    listener_();
  }
}

}  // namespace varve
