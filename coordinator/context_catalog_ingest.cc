// The catalog's side of an ingest: pieces for the tokeniser, tokens for the engine, commits and
// failures back.

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "coordinator/context_catalog.h"
#include "coordinator/text_model.h"

namespace varve {

std::optional<TextPiece> ContextCatalog::WaitForPiece() {
  std::unique_lock lock(mutex_);
  Entry* oldest = nullptr;
  text_arrived_.wait(lock, [&] {
    oldest = nullptr;
    for (auto& [id, entry] : by_id_) {
      const bool wants_piece = entry->uncut_bytes > 0 && !entry->deleting && !entry->tokenising &&
                               entry->pieces.size() < limits_.max_ready_pieces;
      if (wants_piece && (oldest == nullptr || entry->upload_order < oldest->upload_order)) {
        oldest = entry;
      }
    }
    return shutdown_ || oldest != nullptr;
  });
  if (shutdown_) {
    return std::nullopt;
  }
  // The end of an upload is the end of a piece: what comes later does not change how this text is
  // cut.
  const std::string& upload = oldest->uploads.front();
  const std::string_view rest = std::string_view(upload).substr(oldest->front_offset);
  const size_t num_bytes = text_model_->SplitPoint(rest, limits_.piece_bytes);
  TextPiece piece{.context = oldest->manifest.id,
                  .text = std::string(rest.substr(0, num_bytes)),
                  .is_continuation = oldest->cut_bytes > 0,
                  .generation = oldest->generation};
  oldest->front_offset += num_bytes;
  if (oldest->front_offset == upload.size()) {
    oldest->uploads.pop_front();
    oldest->front_offset = 0;
  }
  oldest->uncut_bytes -= num_bytes;
  oldest->cut_bytes += num_bytes;
  oldest->tokenising = true;
  return piece;
}

void ContextCatalog::AddPiece(const TextPiece& piece, Result<std::vector<int32_t>> tokens) {
  {
    const std::lock_guard lock(mutex_);
    Entry* entry = Find(piece.context);
    if (entry == nullptr) {
      return;
    }
    entry->tokenising = false;
    if (entry->generation != piece.generation) {
      return;
    }
    if (!tokens) {
      entry->pieces.push_back(IngestPiece{.error = tokens.error()});
    } else {
      tokenised_bytes_ += piece.text.size();
      tokenised_tokens_ += tokens->size();
      entry->cut_hasher->Update(piece.text);
      entry->pieces.push_back(IngestPiece{.tokens = *std::move(tokens),
                                          .text = piece.text,
                                          .text_hash_after = entry->cut_hasher->Digest()});
    }
  }
  Notify();
}

void ContextCatalog::Shutdown() {
  {
    const std::lock_guard lock(mutex_);
    shutdown_ = true;
  }
  text_arrived_.notify_all();
}

std::vector<ContextId> ContextCatalog::ReadyToIngest() const {
  const std::lock_guard lock(mutex_);
  std::vector<const Entry*> ready;
  for (const auto& [id, entry] : by_id_) {
    if (!entry->pieces.empty() && entry->num_leases == 0 && !entry->deleting) {
      ready.push_back(entry);
    }
  }
  std::sort(ready.begin(), ready.end(), [](const Entry* a, const Entry* b) {
    return a->upload_order < b->upload_order;
  });
  std::vector<ContextId> ids;
  for (const Entry* entry : ready) {
    ids.push_back(entry->manifest.id);
  }
  return ids;
}

std::vector<IngestPiece> ContextCatalog::TakePieces(ContextId context) {
  std::vector<IngestPiece> pieces;
  {
    const std::lock_guard lock(mutex_);
    if (Entry* entry = Find(context); entry != nullptr && !entry->deleting) {
      for (IngestPiece& piece : entry->pieces) {
        entry->waiting_tokens += static_cast<int64_t>(piece.tokens.size());
        pieces.push_back(std::move(piece));
      }
      entry->pieces.clear();
    }
  }
  text_arrived_.notify_one();
  return pieces;
}

ContextManifest ContextCatalog::Manifest(ContextId context) const {
  const std::lock_guard lock(mutex_);
  const Entry* entry = Find(context);
  VARVE_CHECK(entry != nullptr);
  return entry->manifest;
}

void ContextCatalog::SetProgress(ContextId context,
                                 int64_t computed_tokens,
                                 int64_t waiting_tokens) {
  const std::lock_guard lock(mutex_);
  if (Entry* entry = Find(context); entry != nullptr) {
    entry->computed_tokens = computed_tokens;
    entry->waiting_tokens = waiting_tokens;
  }
}

void ContextCatalog::RecordCommit(const ContextManifest& manifest) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(manifest.id);
  VARVE_CHECK(entry != nullptr);
  entry->manifest = manifest;
  entry->durable_last_used_s = manifest.attributes.last_used_unix_s;
  SetUsed(entry);
  entry->computed_tokens = 0;
}

bool ContextCatalog::FinishIngest(ContextId context) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(context);
  VARVE_CHECK(entry != nullptr);
  if (HasText(*entry)) {
    return false;
  }
  entry->status = ContextStatus::kReady;
  return true;
}

bool ContextCatalog::HasText(ContextId context) const {
  const std::lock_guard lock(mutex_);
  const Entry* entry = Find(context);
  return entry != nullptr && HasText(*entry);
}

bool ContextCatalog::HasText(const Entry& entry) {
  return entry.uncut_bytes > 0 || entry.tokenising || !entry.pieces.empty();
}

void ContextCatalog::FailIngest(ContextId context, const Error& error) {
  const std::lock_guard lock(mutex_);
  if (Entry* entry = Find(context); entry != nullptr) {
    entry->status = ContextStatus::kFailed;
    entry->error = error.message;
    ResetToCommit(entry);
  }
}

Result<ContextId> ContextCatalog::BeginDelete(const std::string& name) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) {
    return Error{ErrorCode::kNotFound, fmt::format("There is no context named '{}'.", name)};
  }
  if (entry->deleting) {
    return Error{ErrorCode::kConflict,
                 fmt::format("Context '{}' is being created or deleted.", name)};
  }
  if (entry->num_leases > 0) {
    return Error{ErrorCode::kConflict,
                 fmt::format("Context '{}' is in use by {} requests. Delete it when they ended.",
                             name,
                             entry->num_leases)};
  }
  entry->deleting = true;
  ResetToCommit(entry);
  return entry->manifest.id;
}

void ContextCatalog::EndDelete(ContextId context, const Result<void>& result) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(context);
  VARVE_CHECK(entry != nullptr);
  if (result) {
    const std::string name = entry->manifest.name;
    by_id_.erase(context);
    entries_.erase(name);
    return;
  }
  entry->deleting = false;
  entry->status = ContextStatus::kFailed;
  entry->error = fmt::format("deleting it failed: {}", result.error().message);
}

}  // namespace varve
