// A tier in memory, device or host: a byte budget of one store and the page records that are
// resident under it.
//
// Everything that the store holds in memory carries a MemoryCharge, so that what is counted is what
// is held, by construction: unsealed runs, resident records, read buffers in flight, workspaces,
// tables. Reserve makes room by letting go of the least recently used records and refuses what does
// not fit. Records in use (a shared_ptr outside the tier) never go.
//
// A device tier stands on the host tier: a record that it lets go of moves there if it is admitted,
// and one that is found there moves up if there is room. What no tier has room for is on disk only
// (records of contexts are there already; those of private tails are written to scratch first).
// What asks for a record or its bytes (Find, Contains, Erase...) looks through both tiers.
//
// Admission, in one sentence: a record that is on disk is kept only if it fits in free room, or in
// the room of records that no step of the last kIdleTicks touched, and a quarter of the budget
// stays free for reads. So a scan larger than the budget finds the same resident records each time
// instead of evicting them all in turn.
//
// Threads: one caller at a time, except used() and the end of a charge, which may come from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvstore/disk_tier.h"
#include "kvstore/page_format.h"
#include "proto/base/result.h"

namespace varve {

class MemoryTier;

// Bytes counted against the budget for as long as the object lives. Must not outlive its tier.
class MemoryCharge {
 public:
  MemoryCharge() = default;
  MemoryCharge(MemoryCharge&& other) noexcept
      : tier_(std::exchange(other.tier_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryCharge& operator=(MemoryCharge&& other) noexcept;
  ~MemoryCharge() { Release(); }

  MemoryTier* tier() const { return tier_; }  // null: nothing is charged
  uint64_t bytes() const { return bytes_; }
  // Gives back what lies above `bytes`.
  void ShrinkTo(uint64_t bytes);
  void Release();

 private:
  friend class MemoryTier;
  MemoryCharge(MemoryTier* tier, uint64_t bytes);

  MemoryTier* tier_ = nullptr;
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
  ResidentPage(std::vector<std::byte> bytes, const PageIdentity& identity, MemoryCharge charge)
      : bytes_(std::move(bytes)), identity_(identity), charge_(std::move(charge)) {}

  // The parsed record. The first call verifies the checksum; later ones only look.
  Result<const PageRecord*> Use();
  std::span<const std::byte> bytes() const { return bytes_; }
  const MemoryCharge& charge() const { return charge_; }
  // Counts it in another tier.
  void MoveTo(MemoryCharge charge) { charge_ = std::move(charge); }

 private:
  std::vector<std::byte> bytes_;
  PageIdentity identity_;
  MemoryCharge charge_;
  std::optional<PageRecord> record_;
};

class MemoryTier {
 public:
  static constexpr uint64_t kIdleTicks = 64;
  // What a resident record costs beside its bytes: object, list node, hash node, parsed runs.
  static constexpr uint64_t kRecordOverheadBytes = 512;

  // budget_bytes 0: unlimited. `name` in messages. `disk` may be null: then nothing can be dropped.
  // `below`: the next tier in memory, which outlives this one; may be null.
  MemoryTier(std::string_view name,
             uint64_t budget_bytes,
             DiskTier* disk,
             MemoryTier* below = nullptr);

  uint64_t budget() const { return budget_; }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  // Bytes that one batch of reads may hold; two batches are in flight.
  uint64_t read_share() const { return read_share_; }

  // Room for `bytes`, leaving `keep_free` more. Errors: kBudgetExceeded naming `what`; the disk's
  // errors while spilling.
  Result<MemoryCharge> Reserve(uint64_t bytes, std::string_view what, uint64_t keep_free = 0);
  // Room for a record of `bytes` under the admission rule, here or below; nothing if there is none.
  std::optional<MemoryCharge> TryAdmit(uint64_t bytes);
  // Keeps a clean record that is charged here already (a read) if it may stay, here or below.
  void Offer(const RecordId& id, std::shared_ptr<ResidentPage> page);

  // Null if not resident. Marks the record as used now. `where`: the tier that had it, out; may be
  // null.
  std::shared_ptr<ResidentPage> Find(const RecordId& id, const MemoryTier** where = nullptr);
  // Without a mark.
  std::shared_ptr<ResidentPage> Peek(const RecordId& id) const;
  bool Contains(const RecordId& id) const { return Peek(id) != nullptr; }
  // 0 if not resident.
  uint64_t RecordBytes(const RecordId& id) const;
  // Into the tier in which the page is charged. REQUIRES: the record is not resident.
  void Insert(const RecordId& id, std::shared_ptr<ResidentPage> page, bool on_disk);
  enum class Erased { kAbsent, kClean, kDirty };
  Erased Erase(const RecordId& id);
  // Forgets every record of an owner, or only its tails of versions before `version`.
  void EraseOwner(PageKey::Space space, uint64_t owner);
  // Passes over the versions in `kept`.
  void EraseTailsBefore(uint64_t context, uint64_t version, std::span<const uint64_t> kept);
  // Calls visit(id, bytes) for every record in this tier, the one below apart.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const Entry& entry : lru_) {
      visit(entry.id, entry.page->bytes().size());
    }
  }

  // Time, as the idle rule counts it: once per step.
  void Tick();

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

  friend class MemoryCharge;
  bool Fits(uint64_t bytes, uint64_t keep_free) const;
  std::optional<MemoryCharge> TryAdmitHere(uint64_t bytes);
  // Whether a record that is charged here already may stay.
  bool MayStay();
  // Whether the record is charged in the tier below from now on.
  bool MoveDown(const Entry& entry);
  // Lets go of least recently used records until `bytes` fit or none is left; only idle ones if
  // `idle_only`.
  Result<void> Evict(uint64_t bytes, uint64_t keep_free, bool idle_only);
  // Writes a batch of dirty records to scratch, from `first` on.
  Result<void> Spill(EntryList::iterator first);
  void EraseEntry(EntryList::iterator entry);

  const std::string name_;
  const uint64_t budget_;
  const uint64_t read_share_;
  DiskTier* const disk_;
  MemoryTier* const below_;
  std::atomic<uint64_t> used_{0};
  uint64_t now_ = 0;
  EntryList lru_;  // least recently used first
  std::unordered_map<RecordId, EntryList::iterator, IdHash> entries_;
};

}  // namespace varve
