// A context out of a data directory as one file, and back in under another id: the bytes of
// kvstore/context_file.h.
//
// Every record is verified before it goes out and again before it comes in, and bound to the id of
// the context that it then belongs to. In the file all pages are the context's own: of a fork no
// lineage is left. An import that does not come to its end leaves nothing.
//
// Threads: one caller at a time for each object. Nothing of the stores is touched.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kvstore/context_file.h"
#include "kvstore/context_records.h"
#include "kvstore/disk_tier.h"
#include "kvstore/kv_geometry.h"
#include "proto/base/hash.h"
#include "proto/worker_group.h"

namespace varve {

class ContextExporter final : public ContextSource {
 public:
  // All outlive it; the context must not change meanwhile.
  ContextExporter(const ContextManifest& manifest, const KvGeometry& geometry, DiskTier* disk);

  Result<std::string> Next() override;

 private:
  Result<std::string> NextText(FileBlock kind, std::string_view whole);
  Result<std::string> NextRecords();

  const ContextManifest manifest_;
  const KvGeometry& geometry_;
  DiskTier* const disk_;
  ContextFileWriter writer_;
  FileBlock stage_ = FileBlock::kManifest;
  std::string content_;  // text, then token ids
  size_t content_offset_ = 0;
  ContextRecords records_;
  bool ended_ = false;
};

// What an importer asks of the worker group.
struct ImportHooks {
  // Whether this model can read the context.
  std::function<Result<void>(const ContextManifest&)> check;
  // Whether a record's codecs and tables are those that are loaded.
  std::function<Result<void>(const PageRecord&)> check_record;
  // Makes the context known. Its first version is durable.
  std::function<Result<void>(const ContextManifest&)> adopt;
};

class ContextImporter final : public ContextSink {
 public:
  ContextImporter(const ImportOptions& options,
                  int32_t vocab_size,
                  const KvGeometry& geometry,
                  DiskTier* disk,
                  ImportHooks hooks);
  // Deletes what came in, unless it was finished.
  ~ContextImporter() override;

  Result<void> Write(std::string_view bytes) override;
  bool complete() const override { return reader_.at_end(); }
  Result<ContextManifest> Finish() override;

 private:
  Result<void> OnBlock(FileBlock kind, std::string_view payload);
  Result<void> TakeManifest(std::string_view payload);
  Result<void> TakeText(std::string_view payload);
  Result<void> TakeTokens(std::string_view payload);
  Result<void> TakeRecord(FileBlock kind, std::string_view payload);
  Result<void> FlushPages();

  const ImportOptions options_;
  const int32_t vocab_size_;
  const KvGeometry& geometry_;
  DiskTier* const disk_;
  const ImportHooks hooks_;
  ContextFileReader reader_;
  FileBlock stage_ = FileBlock::kManifest;  // kinds come in their order
  ContextManifest source_;                  // as the file has it
  ContextManifest manifest_;                // as it will be
  std::optional<ContextRecords> records_;
  uint64_t num_text_pieces_ = 0;
  uint64_t num_token_pieces_ = 0;
  uint64_t text_bytes_ = 0;
  int64_t num_tokens_ = 0;
  int64_t num_records_ = 0;
  Hasher64 text_hasher_;
  std::vector<PageKey> page_keys_;  // waiting to be written together
  std::vector<std::vector<std::byte>> pages_;
  uint64_t page_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace varve
