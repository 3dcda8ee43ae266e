// Encodes pages anew in the background: one batch at a time, on a thread of its own with low
// priority.
//
// A batch is read (from memory or from disk), encoded for its rung, and takes the place of the old
// records on disk, all in one write. Both records of a page are valid at every moment, so that a
// crash, a failed write or a reader in between loses nothing. Only records that are still there are
// replaced: what was deleted meanwhile is not brought back.
//
// Threads: one caller at a time; only the batch that was started crosses over. Next:
// kvstore/kv_store_ladder.cc (who starts batches and applies their results)
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "kvstore/disk_tier.h"
#include "kvstore/io_pool.h"
#include "kvstore/memory_tier.h"
#include "kvstore/sealer.h"
#include "proto/worker_group.h"

namespace varve {

// One page on its way down.
struct DemotionItem {
  enum class Outcome {
    kReplaced,  // `record` is the page's from now on
    kAsItIs,    // the old record stands on `rung` already, or would not become smaller
    kGone,      // deleted meanwhile, or the batch was cancelled
    kFailed,    // `failure`; the old record is as valid as before
  };
  RecordId id;
  PageIdentity identity;
  int32_t layer = 0;
  int64_t index = 0;       // in its owner's ladder
  Rung rung = Rung::kHot;  // where it goes
  uint64_t record_bytes = 0;
  std::shared_ptr<ResidentPage> resident;  // the record, if it is in memory
  MemoryCharge charge;                     // of the new record, and of the old one where it is read

  Outcome outcome = Outcome::kFailed;
  DemotionFailure failure = DemotionFailure::kRead;
  Rung stands_on = Rung::kHot;  // where a record stands that is as it is
  std::vector<std::byte> record;
  std::vector<uint16_t> key_centroids;  // of the new record
};

// Pages that are stored under one context's id.
struct DemotionBatch {
  uint64_t owner = 0;
  ResolvedPolicy policy;
  std::vector<DemotionItem> items;
  int64_t cpu_us = 0;  // that it took
};

class Demoter {
 public:
  // `disk` may be null: then records are replaced in memory only, by whoever applies the batch.
  Demoter(const KvGeometry& geometry, DiskTier* disk) : sealer_(geometry), disk_(disk) {}

  // As Sealer's. REQUIRES: not busy.
  uint64_t WorkspaceBytes(const ResolvedPolicy& policy) const {
    return sealer_.WorkspaceBytes(policy);
  }
  void Reserve(const ResolvedPolicy& policy) { sealer_.Reserve(policy); }

  // A batch was started whose results nobody has taken.
  bool is_busy() const { return is_busy_; }
  uint64_t owner() const { return owner_; }  // of the batch. REQUIRES: is_busy()
  void Start(DemotionBatch batch);
  // The results, if they are there.
  std::optional<DemotionBatch> TryTake();
  // Waits for them. cancel: for the page at hand only; the others are kGone. REQUIRES: is_busy().
  DemotionBatch Take(bool cancel);

 private:
  void Run();
  Result<void> ReadAbsent(std::vector<std::vector<std::byte>>& records);
  void Encode(DemotionItem& item, std::span<const std::byte> bytes);
  void Write();
  void Fail(DemotionItem& item, DemotionFailure failure, const Error& error);

  Sealer sealer_;
  DiskTier* const disk_;
  bool is_busy_ = false;
  uint64_t owner_ = 0;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false;            // guarded by mutex_
  DemotionBatch batch_;             // the thread's until it is done
  int num_failed_ = 0;              // likewise
  std::unique_ptr<IoPool> thread_;  // last: its job uses the rest; made when first needed
};

}  // namespace varve
