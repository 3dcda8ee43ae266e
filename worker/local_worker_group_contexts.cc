// Sequences and contexts of LocalWorkerGroup: the same call on every worker's store, undone where
// one of them refuses.
#include <algorithm>
#include <mutex>

#include <fmt/format.h>

#include "kvstore/sealer.h"
#include "proto/base/hash.h"
#include "proto/base/rng.h"
#include "worker/local_worker_group.h"

namespace varve {

Result<void> LocalWorkerGroup::CheckModel(const ContextManifest& manifest) const {
  if (manifest.model_hash == weights_.model_hash) {
    return {};
  }
  return Error{ErrorCode::kModelMismatch,
               fmt::format("context '{}' was made with the model {}, this one is {} "
                           "(other files, or held in int8 and not as stored)",
                           manifest.name,
                           HashToHex(manifest.model_hash),
                           HashToHex(weights_.model_hash))};
}

Result<void> LocalWorkerGroup::CheckReadable(const ContextManifest& manifest) const {
  VARVE_RETURN_IF_ERROR(CheckModel(manifest));
  const Result<ResolvedPolicy> policy = ResolvedPolicy::Resolve(manifest.policy, geometry_);
  return policy ? Result<void>()
                : Error{ErrorCode::kModelMismatch,
                        fmt::format("context '{}': {}", manifest.name, policy.error().message)};
}

Result<void> LocalWorkerGroup::OpenSequence(SequenceId sequence,
                                            const OpenSequenceOptions& options) {
  const std::lock_guard guard(stores_mutex_);
  for (const std::optional<ContextId>& context : {options.base, options.context}) {
    if (context) {
      VARVE_TRY(const ContextManifest manifest, catalog_->Find(*context));
      VARVE_RETURN_IF_ERROR(CheckReadable(manifest));
    }
  }
  for (size_t rank = 0; rank < stores_.size(); ++rank) {
    Result<void> opened = stores_[rank]->OpenSequence(sequence, options);
    if (!opened) {
      for (size_t other = 0; other < rank; ++other) {
        // Nothing was written: what a close can complain about is beside the point.
        (void)stores_[other]->CloseSequence(sequence).has_value();
      }
      return opened;
    }
  }
  return {};
}

Result<void> LocalWorkerGroup::FillSequence(SequenceId sequence,
                                            int64_t num_tokens,
                                            uint64_t seed) {
  constexpr int64_t kChunkTokens = 512;
  constexpr uint64_t kShifts = 4096;
  const std::lock_guard guard(stores_mutex_);
  const auto width =
      static_cast<size_t>(config_.num_kv_heads) * static_cast<size_t>(config_.head_dim);
  Rng rng(seed);
  std::vector<float> values(2 * kChunkTokens * width + kShifts);
  for (float& value : values) {
    value = rng.NextNormal();
  }
  for (int64_t done = 0; done < num_tokens; done += kChunkTokens) {
    const auto count = static_cast<int32_t>(std::min(kChunkTokens, num_tokens - done));
    for (const std::unique_ptr<KvStore>& store : stores_) {
      const int64_t first = store->SequenceLength(sequence);
      VARVE_RETURN_IF_ERROR(store->BeginStep(sequence, first, count));
      for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
        const float* k = values.data() + rng.Below(kShifts);
        store->Append(sequence, layer, first, count, k, k + width, 2 * width);
      }
      VARVE_RETURN_IF_ERROR(store->EndStep(sequence));
    }
  }
  return {};
}

Result<void> LocalWorkerGroup::CloseSequence(SequenceId sequence) {
  const std::lock_guard guard(stores_mutex_);
  Result<void> closed;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    Result<void> one = store->CloseSequence(sequence);
    if (!one && closed) {
      closed = std::move(one);
    }
  }
  return closed;
}

Result<void> LocalWorkerGroup::CreateContext(const ContextManifest& manifest) {
  VARVE_RETURN_IF_ERROR(CheckModel(manifest));
  const std::lock_guard guard(stores_mutex_);
  VARVE_RETURN_IF_ERROR(catalog_->Create(manifest));
  for (size_t rank = 0; rank < stores_.size(); ++rank) {
    Result<void> created = stores_[rank]->CreateContext(manifest);
    if (!created) {
      for (size_t other = 0; other < rank; ++other) {
        (void)stores_[other]->DeleteContext(manifest.id).has_value();
      }
      (void)catalog_->Erase(manifest.id).has_value();
      return created;
    }
  }
  return {};
}

Result<void> LocalWorkerGroup::CommitContext(SequenceId sequence,
                                             const ContextManifest& manifest,
                                             const ContextAppend& append) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_TRY(const ContextManifest known, catalog_->Find(manifest.id));
  VARVE_RETURN_IF_ERROR(CheckModel(manifest));
  // 1. Every worker prepares: what it holds of this version is handed to the disk.
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->PrepareCommit(sequence, manifest));
  }
  // 2. The manifest makes the version the truth.
  VARVE_RETURN_IF_ERROR(catalog_->Commit(manifest, append));
  // 3. Every worker lets go of what only the version before needed.
  Result<void> finished;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    Result<void> one = store->FinishCommit(manifest);
    if (!one && finished) {
      finished = std::move(one);
    }
  }
  return finished;
}

Result<ContextManifest> LocalWorkerGroup::ForkContext(const ForkOptions& options) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_TRY(const ContextManifest source, catalog_->Find(options.source));
  VARVE_RETURN_IF_ERROR(CheckReadable(source));
  if (source.version == 0) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context '{}' has nothing committed to fork yet", source.name)};
  }
  VARVE_TRY(const ContextManifest fork, ForkOf(source, options));
  VARVE_RETURN_IF_ERROR(catalog_->CreateFork(options.source, fork));
  Result<void> forked;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    forked = forked ? store->ForkContext(options.source, fork) : std::move(forked);
  }
  forked = forked ? catalog_->Update(fork) : std::move(forked);
  if (!forked) {
    // Nothing of its own is on disk; stores that do not know it say so.
    for (const std::unique_ptr<KvStore>& store : stores_) {
      (void)store->DeleteContext(fork.id).has_value();
    }
    (void)catalog_->Erase(fork.id).has_value();
    return forked.error();
  }
  return fork;
}

Result<void> LocalWorkerGroup::UpdateContext(const ContextManifest& manifest) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_TRY(ContextManifest known, catalog_->Find(manifest.id));
  known.attributes = manifest.attributes;
  VARVE_RETURN_IF_ERROR(catalog_->Update(known));
  if (!CheckReadable(known)) {
    return {};  // no store knows another model's context
  }
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->UpdateContext(known));
  }
  return {};
}

Result<void> LocalWorkerGroup::DeleteContext(ContextId context) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_TRY(const ContextManifest manifest, catalog_->Find(context));
  if (!CheckReadable(manifest)) {
    // Another model's: no store knows it, and only the disk has it.
    VARVE_CHECK(disk_ != nullptr);
    VARVE_RETURN_IF_ERROR(disk_->DeleteContext(context));
    return catalog_->Erase(context);
  }
  // Use is the same on every worker: the first refuses before any has deleted something.
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->DeleteContext(context));
  }
  return catalog_->Erase(context);
}

Result<std::vector<ContextManifest>> LocalWorkerGroup::ListContexts() {
  return catalog_->ListCommitted();
}

Result<std::string> LocalWorkerGroup::ReadContextText(ContextId context) {
  return catalog_->ReadText(context);
}

Result<std::vector<int32_t>> LocalWorkerGroup::ReadContextTokens(ContextId context) {
  return catalog_->ReadTokens(context);
}

Result<ContextUsage> LocalWorkerGroup::GetContextUsage(ContextId context) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_TRY(const ContextManifest manifest, catalog_->Find(context));
  VARVE_RETURN_IF_ERROR(CheckReadable(manifest));
  ContextUsage usage{.id = context};
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_TRY(const ContextUsage one, store->GetContextUsage(context));
    usage.num_pages += one.num_pages;
    usage.device_bytes += one.device_bytes;
    usage.host_bytes += one.host_bytes;
    usage.disk_bytes += one.disk_bytes;
    usage.shared_device_bytes += one.shared_device_bytes;
    usage.shared_host_bytes += one.shared_host_bytes;
    usage.shared_disk_bytes += one.shared_disk_bytes;
    usage.bf16_bytes += one.bf16_bytes;
    usage.layer_tokens += one.layer_tokens;
    usage.kept_layer_tokens += one.kept_layer_tokens;
    for (size_t rung = 0; rung < kNumRungs; ++rung) {
      usage.rungs[rung].pages += one.rungs[rung].pages;
      usage.rungs[rung].bytes += one.rungs[rung].bytes;
    }
  }
  return usage;
}

}  // namespace varve
