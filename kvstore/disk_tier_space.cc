// Flushes and compactions: when they happen, and that no two flushes overlap.
#include <rocksdb/listener.h>

#include "kvstore/disk_tier_rocks.h"
#include "proto/base/log.h"
#include "proto/base/units.h"

namespace varve {
namespace {

// Space is reclaimed when this much has been deleted...
constexpr uint64_t kReclaimBytesMin = 16 * kMiB;
// ...and live values are moved only when garbage is at least this share of the files: then moving
// them costs less than it frees.
constexpr double kReclaimGarbageShare = 0.5;

// Shares of the memory that what is not flushed may take: a flush starts in the background, and
// writers wait for one.
constexpr uint64_t kFlushShare = 8;
constexpr uint64_t kWaitShare = 4;

}  // namespace

// Gives the flush turn back when the compaction that holds it has flushed what it wanted: when it
// begins, or when it returns without having had anything to do. Notes errors that are final.
class RocksDiskTier::Watch final : public rocksdb::EventListener {
 public:
  Watch(std::binary_semaphore* turn, std::atomic<bool>* is_stopped)
      : turn_(turn), is_stopped_(is_stopped) {}

  // The caller has the turn and will ask for a compaction of this column family.
  void Expect(uint32_t family) { expected_ = family; }
  void Settle(uint32_t family) {
    if (expected_.compare_exchange_strong(family, kNone)) {
      turn_->release();
    }
  }
  void OnCompactionBegin(rocksdb::DB* /*db*/, const rocksdb::CompactionJobInfo& info) override {
    if (info.compaction_reason == rocksdb::CompactionReason::kManualCompaction) {
      Settle(info.cf_id);
    }
  }
  void OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/,
                         rocksdb::Status* error) override {
    if (error->severity() >= rocksdb::Status::Severity::kFatalError) {
      *is_stopped_ = true;
    }
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  std::binary_semaphore* turn_;
  std::atomic<bool>* is_stopped_;
  std::atomic<uint32_t> expected_{kNone};
};

// Counts what flushes and compactions write.
class RocksDiskTier::FileMeter final : public rocksdb::EventListener {
 public:
  explicit FileMeter(std::atomic<uint64_t>* bytes) : bytes_(bytes) {}

  void OnTableFileCreated(const rocksdb::TableFileCreationInfo& info) override {
    *bytes_ += info.file_size;
  }
  void OnBlobFileCreated(const rocksdb::BlobFileCreationInfo& info) override {
    *bytes_ += info.total_blob_bytes;
  }

 private:
  std::atomic<uint64_t>* bytes_;
};

std::vector<std::shared_ptr<rocksdb::EventListener>> RocksDiskTier::Listeners() {
  watch_ = std::make_shared<Watch>(&flush_turn_, &is_stopped_);
  return {watch_, std::make_shared<FileMeter>(&file_bytes_written_)};
}

Result<void> RocksDiskTier::Flush() {
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  std::vector<rocksdb::ColumnFamilyHandle*> tables;
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    tables.push_back(handle);
  }
  flush_turn_.acquire();
  unflushed_bytes_ = 0;
  rocksdb::Status status = db_->Flush(options, tables);
  if (!status.ok() && Resume(status)) {
    status = db_->Flush(options, tables);
  }
  flush_turn_.release();
  return status.ok() ? Result<void>() : WriteError(status, "flush pages");
}

void RocksDiskTier::BoundMemory() {
  const uint64_t unflushed = unflushed_bytes_;
  if (io_ == nullptr || unflushed < options_.memory_bytes / kFlushShare) {
    return;
  }
  const auto flush = [this] {
    if (const Result<void> flushed = Flush(); !flushed) {
      spdlog::warn("{}", flushed.error().message);  // the next commit meets the error itself
    }
  };
  if (unflushed >= options_.memory_bytes / kWaitShare) {
    flush();
  } else if (!flush_submitted_.exchange(true)) {
    io_->Submit([this, flush] {
      flush_submitted_ = false;
      flush();
    });
  }
}

// REQUIRES: mutex_ is held.
void RocksDiskTier::NoteGarbage(Table table, uint64_t bytes) {
  const auto at = static_cast<size_t>(table);
  garbage_[at] += bytes;
  if (garbage_[at] >= kReclaimBytesMin && !reclaiming_[at] && io_ != nullptr) {
    garbage_[at] = 0;
    reclaiming_[at] = true;
    io_->Submit([this, table] { Reclaim(table); });
  }
}

void RocksDiskTier::Reclaim(Table table) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  const auto compact = [&] {
    flush_turn_.acquire();
    watch_->Expect(handle(table)->GetID());
    const rocksdb::Status status = db_->CompactRange(options, handle(table), nullptr, nullptr);
    watch_->Settle(handle(table)->GetID());
    return status;
  };
  // 1. Deleted keys leave the tables; blob files of which nothing is left go with them.
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kDisable;
  rocksdb::Status status = closing_ ? rocksdb::Status::OK() : compact();
  // 2. If much garbage shares its files with live values, those are moved together.
  uint64_t garbage = 0;
  uint64_t total = 0;
  db_->GetIntProperty(handle(table), rocksdb::DB::Properties::kLiveBlobFileGarbageSize, &garbage);
  db_->GetIntProperty(handle(table), rocksdb::DB::Properties::kLiveBlobFileSize, &total);
  if (status.ok() && !closing_ && garbage >= kReclaimBytesMin &&
      static_cast<double>(garbage) >= kReclaimGarbageShare * static_cast<double>(total)) {
    options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
    options.blob_garbage_collection_age_cutoff = 1.0;
    status = compact();
  }
  if (!status.ok() && !closing_) {
    spdlog::warn("{}: reclaiming space failed: {}", options_.directory, status.ToString());
  }
  const std::lock_guard lock(mutex_);
  reclaiming_[static_cast<size_t>(table)] = false;
}

}  // namespace varve
