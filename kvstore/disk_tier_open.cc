#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include <fmt/format.h>
#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include "kvstore/context_format.h"
#include "kvstore/disk_tier_env.h"
#include "kvstore/disk_tier_rocks.h"
#include "proto/base/log.h"
#include "proto/base/units.h"

namespace varve {
namespace {

constexpr std::string_view kFormatLine = "varve-data 1\n";
// Smaller values stand beside their keys: an indirection would cost more than it saves.
constexpr uint64_t kBlobBytesMin = 512;
constexpr uint64_t kBlobFileBytes = 64 * kMiB;
constexpr uint64_t kMemoryBytesMin = 8 * kMiB;
constexpr int kOpenFilesMax = 256;
constexpr uint64_t kArenaBlockBytes = 64 * kKiB;
constexpr uint64_t kLogBytes = 16 * kMiB;

// Borrowed for the life of the process.
std::shared_ptr<rocksdb::Env> DefaultEnv() {
  return {rocksdb::Env::Default(), [](rocksdb::Env*) {}};
}

}  // namespace

Result<std::unique_ptr<DiskTier>> DiskTier::Open(const DiskTierOptions& options) {
  return RocksDiskTier::Open(options, DefaultEnv());
}

Result<std::unique_ptr<DiskTier>> OpenDiskTier(const DiskTierOptions& options,
                                               std::shared_ptr<rocksdb::Env> env) {
  return RocksDiskTier::Open(options, std::move(env));
}

Result<std::unique_ptr<DiskTier>> RocksDiskTier::Open(const DiskTierOptions& options,
                                                      std::shared_ptr<rocksdb::Env> env) {
  if (options.directory.empty() || options.num_io_threads < 1 ||
      options.memory_bytes < kMemoryBytesMin) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("the disk tier needs a directory, at least one I/O thread and {} of memory",
                    FormatBytes(kMemoryBytesMin))};
  }
  VARVE_RETURN_IF_ERROR(MakeDirectories(options.directory));
  std::unique_ptr<RocksDiskTier> tier(new RocksDiskTier(options, std::move(env)));
  VARVE_TRY(tier->lock_, FileLock::Acquire(options.directory + "/LOCK"));
  VARVE_RETURN_IF_ERROR(tier->CheckFormat());
  VARVE_RETURN_IF_ERROR(tier->OpenDatabase());
  VARVE_RETURN_IF_ERROR(tier->EmptyScratch());
  VARVE_RETURN_IF_ERROR(tier->RecoverAccounting());
  tier->io_ = std::make_unique<IoPool>(options.num_io_threads);
  return std::unique_ptr<DiskTier>(std::move(tier));
}

RocksDiskTier::~RocksDiskTier() {
  closing_ = true;
  if (db_ == nullptr) {
    return;
  }
  db_->DisableManualCompaction();
  io_.reset();
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    if (handle != nullptr) {
      db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    }
  }
  if (const rocksdb::Status status = db_->Close(); !status.ok()) {
    spdlog::warn("{}: closing the database failed: {}", options_.directory, status.ToString());
  }
}

// The FORMAT file is written before the database is made, so that one without the other tells of a
// foreign directory.
Result<void> RocksDiskTier::CheckFormat() const {
  const std::string path = options_.directory + "/FORMAT";
  if (!FileExists(path)) {
    if (FileExists(options_.directory + "/db")) {
      return Error{ErrorCode::kVersionSkew,
                   options_.directory +
                       " holds a database but no FORMAT file; this build does "
                       "not know what wrote it"};
    }
    VARVE_RETURN_IF_ERROR(WriteFileAtomically(path, kFormatLine));
    const auto parent = std::filesystem::path(options_.directory).parent_path();
    VARVE_RETURN_IF_ERROR(SyncNames(parent.empty() ? "." : parent.string()));
    return SyncNames(options_.directory);
  }
  VARVE_TRY(const std::string line, ReadFile(path, 4096));
  if (line != kFormatLine) {
    return Error{ErrorCode::kVersionSkew,
                 fmt::format("{} says \"{}\"; this build reads \"{}\"",
                             path,
                             line.substr(0, line.find('\n')),
                             kFormatLine.substr(0, kFormatLine.size() - 1))};
  }
  return {};
}

Result<void> RocksDiskTier::SyncNames(const std::string& directory) const {
  std::unique_ptr<rocksdb::FSDirectory> names;
  rocksdb::IOStatus status =
      env_->GetFileSystem()->NewDirectory(directory, rocksdb::IOOptions(), &names, nullptr);
  if (status.ok()) {
    status = names->Fsync(rocksdb::IOOptions(), nullptr);
  }
  return status.ok() ? Result<void>() : WriteError(status, "sync " + directory);
}

// Tries one direct read: not every filesystem has them.
bool RocksDiskTier::DirectReadsWork() const {
  constexpr size_t kAlignment = 4096;
  rocksdb::FileOptions options;
  options.use_direct_reads = true;
  std::unique_ptr<rocksdb::FSRandomAccessFile> file;
  const auto& files = env_->GetFileSystem();
  if (!files->NewRandomAccessFile(options_.directory + "/FORMAT", options, &file, nullptr).ok()) {
    return false;
  }
  const std::unique_ptr<char, void (*)(void*)> buffer(
      static_cast<char*>(std::aligned_alloc(kAlignment, kAlignment)), std::free);
  rocksdb::Slice result;
  return file->Read(0, kAlignment, rocksdb::IOOptions(), &result, buffer.get(), nullptr).ok();
}

rocksdb::DBOptions RocksDiskTier::DatabaseOptions() {
  rocksdb::DBOptions options;
  options.env = env_.get();
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  // Pages and their index rows, written without a log, become durable together or not at all.
  options.atomic_flush = true;
  options.max_background_jobs = 2;
  options.max_open_files = kOpenFilesMax;
  options.write_buffer_manager = write_buffers_;
  // The log holds manifests only and starts anew with every flush: it never gets there. RocksDB
  // allocates this much ahead for it.
  options.max_total_wal_size = kLogBytes;
  options.listeners = Listeners();
  options.use_direct_reads = DirectReadsWork();
  options.bytes_per_sync = 1 * kMiB;
  options.skip_stats_update_on_db_open = true;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.keep_log_file_num = 2;
  options.info_log_level = rocksdb::WARN_LEVEL;
  return options;
}

rocksdb::ColumnFamilyOptions RocksDiskTier::TableOptions(Table table) const {
  rocksdb::BlockBasedTableOptions blocks;
  blocks.block_cache = cache_;
  blocks.cache_index_and_filter_blocks = true;
  blocks.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(blocks));
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = write_buffer_bytes();
  options.arena_block_size = kArenaBlockBytes;
  if (table == Table::kPages || table == Table::kScratch || table == Table::kTails ||
      table == Table::kText) {
    // Values stay where they were first written. Collecting garbage as a side effect of compactions
    // would rewrite live pages again and again: Reclaim does it when enough has been deleted to be
    // worth it.
    options.enable_blob_files = true;
    options.min_blob_size = kBlobBytesMin;
    options.blob_file_size = kBlobFileBytes;
    options.blob_compression_type = rocksdb::kNoCompression;
    options.enable_blob_garbage_collection = false;
  }
  return options;
}

Result<void> RocksDiskTier::OpenDatabase() {
  cache_ = rocksdb::NewLRUCache(options_.memory_bytes);
  write_buffers_ = std::make_shared<rocksdb::WriteBufferManager>(0, cache_);
  std::vector<rocksdb::ColumnFamilyDescriptor> tables;
  for (size_t table = 0; table < kNumTables; ++table) {
    tables.emplace_back(kTableNames[table], TableOptions(static_cast<Table>(table)));
  }
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(DatabaseOptions(), options_.directory + "/db", tables, &handles, &db);
  if (!status.ok()) {
    return ReadError(status, "open the database");
  }
  db_.reset(db);
  std::copy(handles.begin(), handles.end(), handles_.begin());
  return SyncNames(options_.directory);  // RocksDB syncs what is in `db`, not its own name
}

Result<void> RocksDiskTier::EmptyScratch() {
  rocksdb::ColumnFamilyHandle*& scratch = handles_[static_cast<size_t>(Table::kScratch)];
  rocksdb::Status status = db_->DropColumnFamily(scratch);
  if (status.ok()) {
    status = db_->DestroyColumnFamilyHandle(scratch);
    scratch = nullptr;
  }
  if (status.ok()) {
    status = db_->CreateColumnFamily(
        TableOptions(Table::kScratch), kTableNames[static_cast<size_t>(Table::kScratch)], &scratch);
  }
  return status.ok() ? Result<void>() : WriteError(status, "empty the scratch pages");
}

Result<void> RocksDiskTier::RecoverAccounting() {
  VARVE_TRY(const auto manifests, AllManifests());
  const NamedRecords named(manifests);
  const std::lock_guard lock(mutex_);
  for (const Table table : {Table::kPages, Table::kTails, Table::kText, Table::kScratch}) {
    VARVE_TRY(const auto rows, ListRows(table, ""));
    std::vector<Row> orphans;
    for (const auto& [key, bytes] : rows) {
      used_ += bytes;
      if (!IsNamed(named, table, key)) {
        orphans.push_back({table, key, {}});
      }
    }
    VARVE_RETURN_IF_ERROR(DeleteRowsLocked(orphans));
  }
  return {};
}

}  // namespace varve
