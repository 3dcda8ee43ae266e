// Export and import of LocalWorkerGroup: files over the disk tier that the workers share.
#include <mutex>

#include <fmt/format.h>

#include "kvstore/sealer.h"
#include "proto/base/hash.h"
#include "worker/context_transfer.h"
#include "worker/local_worker_group.h"

namespace varve {
namespace {

Error NeedsDisk() {
  return Error{ErrorCode::kUnsupported,
               "contexts are exported and imported where they are durable: start the server with a "
               "data directory"};
}

// The tables that a record was encoded with are those that decode it here.
Result<void> CheckTables(const Sealer& sealer, const PageRecord& record) {
  for (const PageRun& run : record.runs) {
    const RunContext context =
        sealer.ContextOf(*run.codec, run.layer, record.identity.first_position + run.first_token);
    const uint64_t loaded = context.tables == nullptr ? 0 : context.tables->hash;
    if (run.tables_hash != loaded) {
      return Error{
          ErrorCode::kCodecMismatch,
          fmt::format("the context was written with the tables {} of codec {}; those loaded "
                      "are {}",
                      HashToHex(run.tables_hash),
                      run.codec->name(),
                      loaded == 0 ? "none" : HashToHex(loaded))};
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<ContextSource>> LocalWorkerGroup::ExportContext(ContextId context) {
  VARVE_TRY(const ContextManifest manifest, catalog_->Find(context));
  if (disk_ == nullptr || manifest.version == 0) {
    return NeedsDisk();
  }
  VARVE_RETURN_IF_ERROR(CheckReadable(manifest));
  return std::unique_ptr<ContextSource>(
      std::make_unique<ContextExporter>(manifest, geometry_, disk_.get()));
}

Result<std::unique_ptr<ContextSink>> LocalWorkerGroup::ImportContext(const ImportOptions& options) {
  if (disk_ == nullptr) {
    return NeedsDisk();
  }
  ImportHooks hooks;
  hooks.check = [this](const ContextManifest& manifest) { return CheckReadable(manifest); };
  hooks.check_record = [sealer = std::make_shared<Sealer>(geometry_)](const PageRecord& record) {
    return CheckTables(*sealer, record);
  };
  hooks.adopt = [this](const ContextManifest& manifest) { return Adopt(manifest); };
  return std::unique_ptr<ContextSink>(std::make_unique<ContextImporter>(
      options, config_.vocab_size, geometry_, disk_.get(), std::move(hooks)));
}

Result<void> LocalWorkerGroup::Adopt(const ContextManifest& manifest) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_RETURN_IF_ERROR(catalog_->Create(manifest));
  Result<void> adopted;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    adopted = adopted ? store->RecoverContext(manifest) : std::move(adopted);
  }
  if (!adopted) {
    for (const std::unique_ptr<KvStore>& store : stores_) {
      (void)store->DeleteContext(manifest.id).has_value();
    }
    (void)catalog_->Erase(manifest.id).has_value();
    return adopted;
  }
  catalog_->AddRecovered(manifest);
  return {};
}

}  // namespace varve
