#include "kvstore/host_tier.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "proto/base/rng.h"
#include "proto/base/units.h"

namespace varve {
namespace {

constexpr uint64_t kReadShareBytesMax = 32 * kMiB;
// Spilled in batches, so that scratch writes are few and large.
constexpr uint64_t kSpillBatchBytes = 1 * kMiB;

}  // namespace

HostCharge::HostCharge(std::atomic<uint64_t>* used, uint64_t bytes) : used_(used), bytes_(bytes) {
  used_->fetch_add(bytes_, std::memory_order_relaxed);
}

HostCharge& HostCharge::operator=(HostCharge&& other) noexcept {
  if (this != &other) {
    Release();
    used_ = std::exchange(other.used_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void HostCharge::ShrinkTo(uint64_t bytes) {
  if (used_ != nullptr && bytes < bytes_) {
    used_->fetch_sub(bytes_ - bytes, std::memory_order_relaxed);
    bytes_ = bytes;
  }
}

void HostCharge::Release() {
  if (used_ != nullptr) {
    used_->fetch_sub(bytes_, std::memory_order_relaxed);
    used_ = nullptr;
    bytes_ = 0;
  }
}

Result<const PageRecord*> ResidentPage::Use() {
  if (!record_) {
    VARVE_TRY(record_, ParsePageRecord(bytes_, identity_));
  }
  return &*record_;
}

size_t HostTier::IdHash::operator()(const RecordId& id) const noexcept {
  const uint64_t place = id.key.page << 17 ^ uint64_t { id.key.first_layer } << 1 ^
                         static_cast<uint64_t>(id.key.space);
  return Mix64(Mix64(id.key.owner ^ id.tail_version << 32) ^ place);
}

HostTier::HostTier(uint64_t budget_bytes, DiskTier* disk)
    : budget_(budget_bytes),
      read_share_(budget_bytes == 0 ? kReadShareBytesMax
                                    : std::min(budget_bytes / 8, kReadShareBytesMax)),
      disk_(disk) {}

bool HostTier::Fits(uint64_t bytes, uint64_t keep_free) const {
  return budget_ == 0 || used() + bytes + keep_free <= budget_;
}

Result<HostCharge> HostTier::Reserve(uint64_t bytes, std::string_view what, uint64_t keep_free) {
  VARVE_RETURN_IF_ERROR(Evict(bytes, keep_free, false));
  if (!Fits(bytes, keep_free)) {
    return Error{
        ErrorCode::kBudgetExceeded,
        fmt::format(
            "the host budget of {} cannot hold {} more for {}: {} are in use and {} must stay free",
            FormatBytes(budget_),
            FormatBytes(bytes),
            what,
            FormatBytes(used()),
            FormatBytes(keep_free))};
  }
  return HostCharge(&used_, bytes);
}

std::optional<HostCharge> HostTier::TryAdmit(uint64_t bytes) {
  const uint64_t keep_free = 2 * read_share_;
  if (!Evict(bytes, keep_free, true) || !Fits(bytes, keep_free)) {
    return std::nullopt;
  }
  return HostCharge(&used_, bytes);
}

bool HostTier::MayStay() {
  const uint64_t keep_free = 2 * read_share_;
  return Evict(0, keep_free, true) && Fits(0, keep_free);
}

std::shared_ptr<ResidentPage> HostTier::Find(const RecordId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) {
    return nullptr;
  }
  found->second->last_tick = now_;
  lru_.splice(lru_.end(), lru_, found->second);
  return found->second->page;
}

void HostTier::Insert(const RecordId& id, std::shared_ptr<ResidentPage> page, bool on_disk) {
  lru_.push_back(Entry{id, std::move(page), on_disk, now_});
  const bool inserted = entries_.emplace(id, std::prev(lru_.end())).second;
  VARVE_CHECK(inserted);
}

void HostTier::EraseEntry(EntryList::iterator entry) {
  entries_.erase(entry->id);
  lru_.erase(entry);
}

HostTier::Erased HostTier::Erase(const RecordId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) {
    return Erased::kAbsent;
  }
  const bool on_disk = found->second->on_disk;
  EraseEntry(found->second);
  return on_disk ? Erased::kClean : Erased::kDirty;
}

void HostTier::EraseOwner(PageKey::Space space, uint64_t owner) {
  for (auto entry = lru_.begin(); entry != lru_.end();) {
    const auto next = std::next(entry);
    if (entry->id.key.space == space && entry->id.key.owner == owner) {
      EraseEntry(entry);
    }
    entry = next;
  }
}

void HostTier::EraseTailsBefore(uint64_t context,
                                uint64_t version,
                                std::span<const uint64_t> kept) {
  for (auto entry = lru_.begin(); entry != lru_.end();) {
    const auto next = std::next(entry);
    const RecordId& id = entry->id;
    if (id.key.space == PageKey::Space::kContext && id.key.owner == context &&
        id.tail_version != 0 && id.tail_version < version &&
        std::find(kept.begin(), kept.end(), id.tail_version) == kept.end()) {
      EraseEntry(entry);
    }
    entry = next;
  }
}

uint64_t HostTier::RecordBytes(const RecordId& id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() ? 0 : found->second->page->bytes().size();
}

Result<void> HostTier::Evict(uint64_t bytes, uint64_t keep_free, bool idle_only) {
  if (disk_ == nullptr) {
    return {};
  }
  auto entry = lru_.begin();
  while (!Fits(bytes, keep_free) && entry != lru_.end()) {
    if (idle_only && entry->last_tick + kIdleTicks > now_) {
      return {};  // the list is in order of use: the rest is younger
    }
    if (entry->page.use_count() > 1) {
      ++entry;
      continue;
    }
    if (!entry->on_disk) {
      VARVE_RETURN_IF_ERROR(Spill(entry));
    }
    EraseEntry(entry++);
  }
  return {};
}

Result<void> HostTier::Spill(EntryList::iterator first) {
  std::vector<EntryList::iterator> batch;
  uint64_t bytes = 0;
  for (auto entry = first; entry != lru_.end() && bytes < kSpillBatchBytes; ++entry) {
    if (!entry->on_disk) {
      batch.push_back(entry);
      bytes += entry->page->bytes().size();
    }
  }
  std::vector<PageKey> keys;
  std::vector<std::span<const std::byte>> records;
  for (const auto& entry : batch) {
    keys.push_back(entry->id.key);
    records.push_back(entry->page->bytes());
  }
  VARVE_RETURN_IF_ERROR(disk_->PutPages(keys, records));
  for (const auto& entry : batch) {
    entry->on_disk = true;
  }
  return {};
}

}  // namespace varve
