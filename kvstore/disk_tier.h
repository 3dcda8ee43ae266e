// The disk tier of one process: RocksDB. Shared by the process's workers, so that contexts can be
// reopened with another number of workers.
//
// Column families: `pages` (sealed pages of contexts, BlobDB: large immutable values that
// compaction must not rewrite), `tails` (unsealed tails, by version), `manifests`, `text` (text and
// token ids by commit), `scratch` (sealed pages of private tails that did not fit host memory;
// emptied at every start).
//
// What is durable when, and by which sync: the table in kvstore/README.md.
//
// Threads: every call may come from any thread. Reads are asynchronous and batched.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "proto/base/file.h"
#include "proto/base/ids.h"
#include "proto/base/result.h"
#include "proto/context_manifest.h"
#include "proto/worker_group.h"

namespace varve {

struct DiskTierOptions {
  std::string directory;      // created if missing; locked against a second process
  uint64_t budget_bytes = 0;  // 0: unlimited. Counts the bytes of live values and their keys
  uint64_t memory_bytes =
      64ull << 20;  // RocksDB's own memory: block cache and memtables, all column families together
  int num_io_threads = 8;  // they wait for the disk, mostly: its queue is as deep
};

// Names one record. Ordered so that the pages of one layer of a context lie together.
struct PageKey {
  enum class Space : uint8_t { kContext = 1, kScratch = 2 };
  Space space = Space::kContext;
  uint64_t owner = 0;  // ContextId, or SequenceId for scratch
  uint16_t first_layer =
      0;  // layer range [first_layer, last_layer]: cold records may span several layers
  uint16_t last_layer = 0;
  uint64_t page = 0;

  bool operator==(const PageKey&) const = default;
};

class DiskTier {
 public:
  // Errors: kDataDirLocked, kVersionSkew (the directory's format version is not this build's),
  // kIoError.
  static Result<std::unique_ptr<DiskTier>> Open(const DiskTierOptions& options);
  virtual ~DiskTier() = default;

  // Queues a batch of records; `records[i]` are complete page records (kvstore/page_format.h).
  // Copies.
  virtual Result<void> PutPages(std::span<const PageKey> keys,
                                std::span<const std::span<const std::byte>> records) = 0;
  // Gives records that are there other bytes, all in one batch: a key without a record (deleted
  // meanwhile), or with one that is not of old_bytes[i] bytes, is passed over. Returns which were
  // replaced: [keys]. An error leaves the records as they are; after a failed flush or a full disk
  // there is one until another write has made RocksDB go on, or there is space.
  virtual Result<std::vector<bool>> ReplacePages(
      std::span<const PageKey> keys,
      std::span<const std::span<const std::byte>> records,
      std::span<const uint64_t> old_bytes) = 0;
  // Reads a batch. The future's vector has one entry per key, in order; a missing record is an
  // empty vector. The records' checksums are the reader's to verify.
  virtual std::future<Result<std::vector<std::vector<std::byte>>>> GetPages(
      std::vector<PageKey> keys) = 0;
  virtual Result<void> DeletePages(std::span<const PageKey> keys) = 0;

  // The unsealed tail of one worker's part of a context at a version.
  virtual Result<void> PutTail(ContextId context,
                               uint64_t version,
                               const PageKey& key,
                               std::span<const std::byte> record) = 0;
  virtual Result<std::vector<std::pair<PageKey, std::vector<std::byte>>>> GetTails(
      ContextId context,
      uint64_t version) = 0;
  // The tails of these pages only, like GetPages: a worker reads its own.
  virtual std::future<Result<std::vector<std::vector<std::byte>>>> GetTailPages(
      uint64_t version,
      std::vector<PageKey> keys) = 0;

  // Flushes pages, tails and text, then writes and syncs the manifest: the commit point.
  virtual Result<void> CommitManifest(const ContextManifest& manifest,
                                      const ContextAppend& append) = 0;
  // Text or token ids of a version that will be committed, in whatever order; what is empty is left
  // out.
  virtual Result<void> PutAppend(ContextId context,
                                 uint64_t version,
                                 const ContextAppend& append) = 0;
  // Writes and syncs a manifest that names nothing new: the first one of a fork, or the committed
  // one with other values of what changes without a commit.
  virtual Result<void> WriteManifest(const ContextManifest& manifest) = 0;
  // Deletes the manifests of versions before `version` and their tails, but not those tails whose
  // versions are in `kept_tails` (forks and open requests read them).
  virtual Result<void> DropOlderVersions(ContextId context,
                                         uint64_t version,
                                         std::span<const uint64_t> kept_tails = {}) = 0;
  virtual Result<std::vector<ContextManifest>>
  ListManifests() = 0;  // newest version of each context
  virtual Result<std::string> ReadText(ContextId context) = 0;
  virtual Result<std::vector<int32_t>> ReadTokens(ContextId context) = 0;
  // Deletes the manifest first (synced), then everything of the context that no fork names; and of
  // deleted contexts what only this one, their fork, still named.
  virtual Result<void> DeleteContext(ContextId context) = 0;
  virtual Result<void> DeleteScratch(SequenceId sequence) = 0;
  // Pages of a context that are on disk: their keys, in key order (recovery, damage scans).
  virtual Result<std::vector<PageKey>> ListPages(ContextId context) = 0;
  // The same of one layer.
  virtual Result<std::vector<PageKey>> ListLayerPages(ContextId context, uint16_t layer) = 0;
  // The same with the bytes of each record, its key and index row not counted.
  virtual Result<std::vector<std::pair<PageKey, uint64_t>>> ListLayerPageBytes(ContextId context,
                                                                               uint16_t layer) = 0;

  struct Stats {
    TierBytes bytes;
    std::array<uint64_t, kDiskFaultNames.size()> errors{};  // calls that failed, by the reason
    uint64_t bytes_read = 0;
    uint64_t bytes_written = 0;  // payload handed to PutPages, ReplacePages and PutTail
    // What it took in files: keys, indices, the log, and all that was written again to reclaim
    // space. Its ratio to bytes_written is the write amplification, once all is flushed.
    uint64_t file_bytes_written = 0;
    double read_seconds = 0;
    double write_seconds = 0;
  };
  virtual Stats GetStats() const = 0;
};

}  // namespace varve
