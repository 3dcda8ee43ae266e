// The host tier: the byte budget of one store and the page records that are resident under it.
//
// Everything that the store holds in memory carries a HostCharge, so that what is counted is what
// is held, by construction: unsealed runs, resident records, read buffers in flight, workspaces,
// tables. Reserve makes room by dropping the least recently used records (those of contexts are on
// disk already; those of private tails are written to scratch first) and refuses what does not fit.
// Records in use (a shared_ptr outside the tier) are never dropped.
//
// Admission, in one sentence: a record that is on disk is kept only if it fits in free room, or in
// the room of records that no step of the last kIdleTicks touched, and a quarter of the budget
// stays free for reads. So a scan larger than the budget finds the same resident records each time
// instead of evicting them all in turn.
//
// Threads: one caller at a time, except used(), which any thread may call.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvstore/disk_tier.h"
#include "kvstore/page_format.h"
#include "proto/base/result.h"

namespace varve {

// Bytes counted against the budget for as long as the object lives. Must not outlive its HostTier.
class HostCharge {
 public:
  HostCharge() = default;
  HostCharge(HostCharge&& other) noexcept
      : used_(std::exchange(other.used_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HostCharge& operator=(HostCharge&& other) noexcept;
  ~HostCharge() { Release(); }

  uint64_t bytes() const { return bytes_; }
  // Gives back what lies above `bytes`.
  void ShrinkTo(uint64_t bytes);
  void Release();

 private:
  friend class HostTier;
  HostCharge(std::atomic<uint64_t>* used, uint64_t bytes);

  std::atomic<uint64_t>* used_ = nullptr;
  uint64_t bytes_ = 0;
};

// Names a record: a sealed page, or the tail of a page at a committed version.
struct RecordId {
  PageKey key;
  uint64_t tail_version = 0;  // 0: the sealed page

  bool operator==(const RecordId&) const = default;
};

// A record in memory.
class ResidentPage {
 public:
  ResidentPage(std::vector<std::byte> bytes, const PageIdentity& identity, HostCharge charge)
      : bytes_(std::move(bytes)), identity_(identity), charge_(std::move(charge)) {}

  // The parsed record. The first call verifies the checksum; later ones only look.
  Result<const PageRecord*> Use();
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  PageIdentity identity_;
  HostCharge charge_;
  std::optional<PageRecord> record_;
};

class HostTier {
 public:
  static constexpr uint64_t kIdleTicks = 64;
  // What a resident record costs beside its bytes: object, list node, hash node, parsed runs.
  static constexpr uint64_t kRecordOverheadBytes = 512;

  // budget_bytes 0: unlimited. `disk` may be null: then nothing can be dropped.
  HostTier(uint64_t budget_bytes, DiskTier* disk);

  uint64_t budget() const { return budget_; }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  // Bytes that one batch of reads may hold; two batches are in flight.
  uint64_t read_share() const { return read_share_; }

  // Room for `bytes`, leaving `keep_free` more. Errors: kBudgetExceeded naming `what`; the disk's
  // errors while spilling.
  Result<HostCharge> Reserve(uint64_t bytes, std::string_view what, uint64_t keep_free = 0);
  // Room for a record of `bytes` under the admission rule; nothing if there is none.
  std::optional<HostCharge> TryAdmit(uint64_t bytes);
  // Whether a record that is charged already may stay.
  bool MayStay();

  // Null if not resident. Marks the record as used now.
  std::shared_ptr<ResidentPage> Find(const RecordId& id);
  bool Contains(const RecordId& id) const { return entries_.contains(id); }
  // 0 if not resident.
  uint64_t RecordBytes(const RecordId& id) const;
  // REQUIRES: the record is not resident.
  void Insert(const RecordId& id, std::shared_ptr<ResidentPage> page, bool on_disk);
  enum class Erased { kAbsent, kClean, kDirty };
  Erased Erase(const RecordId& id);
  // Forgets every record of an owner, or only its tails of versions before `version`.
  void EraseOwner(PageKey::Space space, uint64_t owner);
  // Passes over the versions in `kept`.
  void EraseTailsBefore(uint64_t context, uint64_t version, std::span<const uint64_t> kept);
  // Calls visit(id, bytes) for every resident record.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const Entry& entry : lru_) {
      visit(entry.id, entry.page->bytes().size());
    }
  }

  // Time, as the idle rule counts it: once per step.
  void Tick() { ++now_; }

 private:
  struct Entry {
    RecordId id;
    std::shared_ptr<ResidentPage> page;
    bool on_disk = false;
    uint64_t last_tick = 0;
  };
  struct IdHash {
    size_t operator()(const RecordId& id) const noexcept;
  };
  using EntryList = std::list<Entry>;

  bool Fits(uint64_t bytes, uint64_t keep_free) const;
  // Drops least recently used records until `bytes` fit or none is left; only idle ones if
  // `idle_only`.
  Result<void> Evict(uint64_t bytes, uint64_t keep_free, bool idle_only);
  // Writes a batch of dirty records to scratch, from `first` on.
  Result<void> Spill(EntryList::iterator first);
  void EraseEntry(EntryList::iterator entry);

  const uint64_t budget_;
  const uint64_t read_share_;
  DiskTier* const disk_;
  std::atomic<uint64_t> used_{0};
  uint64_t now_ = 0;
  EntryList lru_;  // least recently used first
  std::unordered_map<RecordId, EntryList::iterator, IdHash> entries_;
};

}  // namespace varve
