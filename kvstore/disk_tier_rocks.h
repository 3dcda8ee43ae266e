// The disk tier over RocksDB. disk_tier_open.cc opens and recovers, disk_tier.cc reads and writes
// records, disk_tier_contexts.cc keeps manifests and text and deletes, disk_tier_space.cc flushes
// and reclaims space, disk_tier_errors.cc says what went wrong. Included by those files only:
// RocksDB's headers go no further.
//
// Every record has a row in the column family `index` (table byte, key -> bytes), written in the
// same atomic batch, so that pages can be listed and counted without reading them.
//
// RocksDB never flushes by itself: one flush at a time, always from here. With atomic flushes it
// asserts that flushes which overlap have the same reason (7.8, which Debian builds with
// assertions), so that a full memtable beside a commit, or beside a compaction, would end the
// process.
//
// Threads: any. `mutex_` serialises deletions and the accounting; RocksDB does the rest.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <vector>

#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/write_buffer_manager.h>

#include "kvstore/disk_tier.h"
#include "kvstore/io_pool.h"
#include "kvstore/named_records.h"
#include "kvstore/record_keys.h"

namespace varve {

// Column families. Names and letters are embedded on disk: do not change or reuse one.
enum class Table : uint8_t { kDefault, kPages, kTails, kManifests, kText, kIndex, kScratch };
inline constexpr size_t kNumTables = 7;
inline constexpr std::array<const char*, kNumTables> kTableNames =
    {"default", "pages", "tails", "manifests", "text", "index", "scratch"};
// Begin the rows of the index.
inline constexpr std::array<char, kNumTables> kTableLetters = {'-', 'p', 't', '-', 'x', '-', 's'};

class RocksDiskTier final : public DiskTier {
 public:
  static Result<std::unique_ptr<DiskTier>> Open(const DiskTierOptions& options,
                                                std::shared_ptr<rocksdb::Env> env);
  ~RocksDiskTier() override;

  Result<void> PutPages(std::span<const PageKey> keys,
                        std::span<const std::span<const std::byte>> records) override;
  Result<std::vector<bool>> ReplacePages(std::span<const PageKey> keys,
                                         std::span<const std::span<const std::byte>> records,
                                         std::span<const uint64_t> old_bytes) override;
  std::future<Result<std::vector<std::vector<std::byte>>>> GetPages(
      std::vector<PageKey> keys) override;
  Result<void> DeletePages(std::span<const PageKey> keys) override;
  Result<void> PutTail(ContextId context,
                       uint64_t version,
                       const PageKey& key,
                       std::span<const std::byte> record) override;
  Result<std::vector<std::pair<PageKey, std::vector<std::byte>>>> GetTails(
      ContextId context,
      uint64_t version) override;
  std::future<Result<std::vector<std::vector<std::byte>>>> GetTailPages(
      uint64_t version,
      std::vector<PageKey> keys) override;
  Result<void> CommitManifest(const ContextManifest& manifest,
                              const ContextAppend& append) override;
  Result<void> PutAppend(ContextId context, uint64_t version, const ContextAppend& append) override;
  Result<void> WriteManifest(const ContextManifest& manifest) override;
  Result<void> DropOlderVersions(ContextId context,
                                 uint64_t version,
                                 std::span<const uint64_t> kept_tails) override;
  Result<std::vector<ContextManifest>> ListManifests() override;
  Result<std::string> ReadText(ContextId context) override;
  Result<std::vector<int32_t>> ReadTokens(ContextId context) override;
  Result<void> DeleteContext(ContextId context) override;
  Result<void> DeleteScratch(SequenceId sequence) override;
  Result<std::vector<PageKey>> ListPages(ContextId context) override;
  Result<std::vector<PageKey>> ListLayerPages(ContextId context, uint16_t layer) override;
  Result<std::vector<std::pair<PageKey, uint64_t>>> ListLayerPageBytes(ContextId context,
                                                                       uint16_t layer) override;
  Stats GetStats() const override;

 private:
  // A record to write, or (of a deletion) to forget.
  struct Row {
    Table table;
    std::string key;
    std::span<const std::byte> record;
  };
  using Records = std::vector<std::vector<std::byte>>;
  struct PendingRead;

  RocksDiskTier(const DiskTierOptions& options, std::shared_ptr<rocksdb::Env> env)
      : options_(options), env_(std::move(env)) {}

  // Opening (disk_tier_open.cc).
  Result<void> CheckFormat() const;
  // The names in a directory become durable.
  Result<void> SyncNames(const std::string& directory) const;
  Result<void> OpenDatabase();
  Result<void> EmptyScratch();
  bool DirectReadsWork() const;
  rocksdb::DBOptions DatabaseOptions();
  rocksdb::ColumnFamilyOptions TableOptions(Table table) const;
  // Counts what is there and deletes what no manifest names.
  Result<void> RecoverAccounting();

  // Records (disk_tier.cc).
  rocksdb::ColumnFamilyHandle* handle(Table table) const {
    return handles_[static_cast<size_t>(table)];
  }
  enum class Access : uint8_t { kRead, kWrite };
  // Counts it, and says what to do where something can be done.
  Error ToError(const rocksdb::Status& status, Access access, std::string_view what) const;
  Error ReadError(const rocksdb::Status& status, std::string_view what) const {
    return ToError(status, Access::kRead, what);
  }
  Error WriteError(const rocksdb::Status& status, std::string_view what) const {
    return ToError(status, Access::kWrite, what);
  }
  // The size at which RocksDB would flush a table by itself: out of reach, for BoundMemory flushes
  // long before (disk_tier_space.cc). After a full disk RocksDB goes on when this much is free.
  uint64_t write_buffer_bytes() const { return 4 * options_.memory_bytes; }
  // Asks RocksDB to go on after a background error; says in the log why it does not.
  bool Resume(const rocksdb::Status& failure);
  // Writes a batch; after a failed flush or a full disk, asks RocksDB to go on first.
  rocksdb::Status Write(rocksdb::WriteBatch& batch, bool durable);
  // Leaves RocksDB as it is.
  rocksdb::Status WriteOnce(rocksdb::WriteBatch& batch, bool durable);
  Result<void> PutRows(std::span<const Row> rows);
  // Adds a record and its row of the index to a batch.
  void PutRow(const Row& row, rocksdb::WriteBatch& batch) const;
  Result<void> DeleteRowsLocked(std::span<const Row> rows);
  // Counted bytes of a record, 0 if there is none.
  Result<uint64_t> CountedBytes(Table table, std::string_view key) const;
  std::future<Result<Records>> GetRecords(Table table, std::vector<std::string> keys);
  void ReadChunk(const std::shared_ptr<PendingRead>& read, size_t first, size_t end);
  // Index rows whose keys begin with `prefix`: (key without the table byte, counted bytes).
  Result<std::vector<std::pair<std::string, uint64_t>>> ListRows(Table table,
                                                                 std::string_view prefix) const;

  // Contexts (disk_tier_contexts.cc).
  static bool IsNamed(const NamedRecords& named, Table table, std::string_view row);
  // What an owner of deleted or never committed records still has and no manifest names.
  Result<void> DeleteUnnamedLocked(const NamedRecords& named, ContextId owner);
  Result<std::vector<ContextManifest>> AllManifests() const;
  Result<ContextManifest> NewestManifest(ContextId context) const;
  Result<std::string> ReadTexts(ContextId context, TextKind kind);
  // The records of one owner up to a version, one after another.
  Result<std::string> ReadOwnTexts(ContextId owner, uint64_t version, TextKind kind);

  // Space (disk_tier_space.cc).
  // Makes everything written so far durable. Waits for its turn.
  Result<void> Flush();
  // Flushes in the background when enough is in memory, at once when it is far too much.
  void BoundMemory();
  std::vector<std::shared_ptr<rocksdb::EventListener>> Listeners();
  void NoteGarbage(Table table, uint64_t bytes);
  void Reclaim(Table table);

  const DiskTierOptions options_;
  const std::shared_ptr<rocksdb::Env> env_;
  std::unique_ptr<FileLock> lock_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::shared_ptr<rocksdb::WriteBufferManager> write_buffers_;
  std::unique_ptr<rocksdb::DB> db_;
  std::array<rocksdb::ColumnFamilyHandle*, kNumTables> handles_{};

  mutable std::mutex mutex_;
  uint64_t used_ = 0;  // guarded by mutex_
  std::array<uint64_t, kNumTables>
      garbage_{};  // guarded by mutex_; bytes deleted since the last reclaim
  std::array<bool, kNumTables> reclaiming_{};  // guarded by mutex_
  std::atomic<bool> closing_{false};

  // A compaction that was asked for flushes first: it has the turn until it has begun.
  class Watch;
  class FileMeter;
  std::binary_semaphore flush_turn_{1};
  std::shared_ptr<Watch> watch_;
  std::atomic<uint64_t> unflushed_bytes_{0};
  std::atomic<bool> flush_submitted_{false};

  // RocksDB met an error after which it takes no more writes.
  std::atomic<bool> is_stopped_{false};
  mutable std::array<std::atomic<uint64_t>, kDiskFaultNames.size()> errors_{};

  std::atomic<uint64_t> bytes_read_{0};
  std::atomic<uint64_t> bytes_written_{0};
  std::atomic<uint64_t> file_bytes_written_{0};
  std::atomic<int64_t> read_us_{0};
  std::atomic<int64_t> write_us_{0};

  std::unique_ptr<IoPool> io_;  // last: its jobs use the rest
};

// Keys and records as RocksDB takes them.
inline rocksdb::Slice ToSlice(std::string_view bytes) {
  return {bytes.data(), bytes.size()};
}
inline rocksdb::Slice ToSlice(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline std::string_view ToView(const rocksdb::Slice& slice) {
  return {slice.data(), slice.size()};
}

// A row's key in the index: the table, then the key.
std::string IndexKey(Table table, std::string_view key);

}  // namespace varve
