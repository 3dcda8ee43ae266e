#include "worker/context_catalog.h"

#include <fmt/format.h>

namespace varve {
namespace {

Error NoSuchContext(ContextId context) {
  return {ErrorCode::kNotFound, fmt::format("context {} does not exist", context.value)};
}

}  // namespace

void ContextManifests::AddRecovered(const ContextManifest& manifest) {
  const std::lock_guard guard(mutex_);
  entries_[manifest.id] = {.manifest = manifest, .is_committed = true, .content = {}};
}

Result<void> ContextManifests::Create(const ContextManifest& manifest) {
  const std::lock_guard guard(mutex_);
  for (const auto& [id, entry] : entries_) {
    if (id == manifest.id || entry.manifest.name == manifest.name) {
      return Error{ErrorCode::kAlreadyExists,
                   fmt::format("there is a context with the id {} and the name '{}'",
                               id.value,
                               entry.manifest.name)};
    }
  }
  entries_[manifest.id] = {.manifest = manifest, .is_committed = false, .content = {}};
  return {};
}

Result<void> ContextManifests::CreateFork(ContextId source, const ContextManifest& fork) {
  VARVE_RETURN_IF_ERROR(Create(fork));
  const std::lock_guard guard(mutex_);
  const auto it = entries_.find(source);
  if (it == entries_.end()) {
    entries_.erase(fork.id);
    return NoSuchContext(source);
  }
  entries_.at(fork.id).content = it->second.content;
  return {};
}

Result<void> ContextManifests::Update(const ContextManifest& manifest) {
  {
    const std::lock_guard guard(mutex_);
    const auto it = entries_.find(manifest.id);
    if (it == entries_.end()) {
      return NoSuchContext(manifest.id);
    }
    if (manifest.version == 0) {
      it->second.manifest = manifest;  // its first commit will write it
      return {};
    }
  }
  if (disk_ != nullptr) {
    VARVE_RETURN_IF_ERROR(disk_->WriteManifest(manifest));
  }
  const std::lock_guard guard(mutex_);
  const auto it = entries_.find(manifest.id);
  if (it == entries_.end()) {
    return NoSuchContext(manifest.id);
  }
  it->second.manifest = manifest;
  it->second.is_committed = true;
  return {};
}

Result<void> ContextManifests::Commit(const ContextManifest& manifest,
                                      const ContextAppend& append) {
  if (disk_ != nullptr) {
    VARVE_RETURN_IF_ERROR(disk_->CommitManifest(manifest, append));
  }
  const std::lock_guard guard(mutex_);
  const auto it = entries_.find(manifest.id);
  if (it == entries_.end()) {
    return NoSuchContext(manifest.id);
  }
  it->second.manifest = manifest;
  it->second.is_committed = true;
  if (disk_ == nullptr) {
    it->second.content.push_back(std::make_shared<const ContextAppend>(append));
  }
  return {};
}

Result<void> ContextManifests::Erase(ContextId context) {
  const std::lock_guard guard(mutex_);
  return entries_.erase(context) == 1 ? Result<void>() : NoSuchContext(context);
}

Result<ContextManifest> ContextManifests::Find(ContextId context) const {
  const std::lock_guard guard(mutex_);
  const auto it = entries_.find(context);
  if (it == entries_.end()) {
    return NoSuchContext(context);
  }
  return it->second.manifest;
}

std::vector<ContextManifest> ContextManifests::ListCommitted() const {
  const std::lock_guard guard(mutex_);
  std::vector<ContextManifest> manifests;
  for (const auto& [id, entry] : entries_) {
    if (entry.is_committed) {
      manifests.push_back(entry.manifest);
    }
  }
  return manifests;
}

std::string ContextManifests::TextOf(const Entry& entry) {
  std::string text;
  for (const auto& append : entry.content) {
    text += append->text;
  }
  return text;
}

std::vector<int32_t> ContextManifests::TokensOf(const Entry& entry) {
  std::vector<int32_t> tokens;
  for (const auto& append : entry.content) {
    tokens.insert(tokens.end(), append->tokens.begin(), append->tokens.end());
  }
  return tokens;
}

Result<std::string> ContextManifests::ReadText(ContextId context) const {
  {
    const std::lock_guard guard(mutex_);
    const auto it = entries_.find(context);
    if (it == entries_.end()) {
      return NoSuchContext(context);
    }
    if (disk_ == nullptr || !it->second.is_committed) {
      return TextOf(it->second);
    }
  }
  return disk_->ReadText(context);
}

Result<std::vector<int32_t>> ContextManifests::ReadTokens(ContextId context) const {
  {
    const std::lock_guard guard(mutex_);
    const auto it = entries_.find(context);
    if (it == entries_.end()) {
      return NoSuchContext(context);
    }
    if (disk_ == nullptr || !it->second.is_committed) {
      return TokensOf(it->second);
    }
  }
  return disk_->ReadTokens(context);
}

}  // namespace varve
