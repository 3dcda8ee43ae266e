#include "kvstore/memory_tier.h"

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

MemoryCharge::MemoryCharge(MemoryTier* tier, uint64_t bytes) : tier_(tier), bytes_(bytes) {
  tier_->used_.fetch_add(bytes_, std::memory_order_relaxed);
}

MemoryCharge& MemoryCharge::operator=(MemoryCharge&& other) noexcept {
  if (this != &other) {
    Release();
    tier_ = std::exchange(other.tier_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void MemoryCharge::ShrinkTo(uint64_t bytes) {
  if (tier_ != nullptr && bytes < bytes_) {
    tier_->used_.fetch_sub(bytes_ - bytes, std::memory_order_relaxed);
    bytes_ = bytes;
  }
}

void MemoryCharge::Release() {
  if (tier_ != nullptr) {
    tier_->used_.fetch_sub(bytes_, std::memory_order_relaxed);
    tier_ = nullptr;
    bytes_ = 0;
  }
}

Result<const PageRecord*> ResidentPage::Use() {
  if (!record_) {
    VARVE_TRY(record_, ParsePageRecord(bytes_, identity_));
  }
  return &*record_;
}

size_t MemoryTier::IdHash::operator()(const RecordId& id) const noexcept {
  const uint64_t place = id.key.page << 17 ^ uint64_t { id.key.first_layer } << 1 ^
                         static_cast<uint64_t>(id.key.space);
  return Mix64(Mix64(id.key.owner ^ id.tail_version << 32) ^ place);
}

MemoryTier::MemoryTier(std::string_view name,
                       uint64_t budget_bytes,
                       DiskTier* disk,
                       MemoryTier* below)
    : name_(name),
      budget_(budget_bytes),
      read_share_(budget_bytes == 0 ? kReadShareBytesMax
                                    : std::min(budget_bytes / 8, kReadShareBytesMax)),
      disk_(disk),
      below_(below) {}

void MemoryTier::Tick() {
  ++now_;
  if (below_ != nullptr) {
    below_->Tick();
  }
}

bool MemoryTier::Fits(uint64_t bytes, uint64_t keep_free) const {
  return budget_ == 0 || used() + bytes + keep_free <= budget_;
}

Result<MemoryCharge> MemoryTier::Reserve(uint64_t bytes,
                                         std::string_view what,
                                         uint64_t keep_free) {
  VARVE_RETURN_IF_ERROR(Evict(bytes, keep_free, false));
  if (!Fits(bytes, keep_free)) {
    return Error{
        ErrorCode::kBudgetExceeded,
        fmt::format(
            "the {} budget of {} cannot hold {} more for {}: {} are in use and {} must stay free",
            name_,
            FormatBytes(budget_),
            FormatBytes(bytes),
            what,
            FormatBytes(used()),
            FormatBytes(keep_free))};
  }
  return MemoryCharge(this, bytes);
}

std::optional<MemoryCharge> MemoryTier::TryAdmitHere(uint64_t bytes) {
  const uint64_t keep_free = 2 * read_share_;
  if (!Evict(bytes, keep_free, true) || !Fits(bytes, keep_free)) {
    return std::nullopt;
  }
  return MemoryCharge(this, bytes);
}

std::optional<MemoryCharge> MemoryTier::TryAdmit(uint64_t bytes) {
  std::optional<MemoryCharge> charge = TryAdmitHere(bytes);
  return charge || below_ == nullptr ? std::move(charge) : below_->TryAdmit(bytes);
}

bool MemoryTier::MayStay() {
  const uint64_t keep_free = 2 * read_share_;
  return Evict(0, keep_free, true) && Fits(0, keep_free);
}

void MemoryTier::Offer(const RecordId& id, std::shared_ptr<ResidentPage> page) {
  if (Contains(id)) {
    return;
  }
  if (!MayStay()) {
    std::optional<MemoryCharge> charge =
        below_ == nullptr ? std::nullopt : below_->TryAdmit(page->charge().bytes());
    if (!charge) {
      return;
    }
    page->MoveTo(std::move(*charge));
  }
  Insert(id, std::move(page), true);
}

std::shared_ptr<ResidentPage> MemoryTier::Find(const RecordId& id, const MemoryTier** where) {
  if (const auto found = entries_.find(id); found != entries_.end()) {
    found->second->last_tick = now_;
    lru_.splice(lru_.end(), lru_, found->second);
    if (where != nullptr) {
      *where = this;
    }
    return found->second->page;
  }
  std::shared_ptr<ResidentPage> page = below_ == nullptr ? nullptr : below_->Find(id, where);
  if (page == nullptr) {
    return nullptr;
  }
  if (std::optional<MemoryCharge> charge = TryAdmitHere(page->charge().bytes())) {
    const bool on_disk = below_->Erase(id) == Erased::kClean;
    page->MoveTo(std::move(*charge));
    Insert(id, page, on_disk);
  }
  return page;
}

std::shared_ptr<ResidentPage> MemoryTier::Peek(const RecordId& id) const {
  if (const auto found = entries_.find(id); found != entries_.end()) {
    return found->second->page;
  }
  return below_ == nullptr ? nullptr : below_->Peek(id);
}

void MemoryTier::Insert(const RecordId& id, std::shared_ptr<ResidentPage> page, bool on_disk) {
  if (page->charge().tier() != this && below_ != nullptr) {
    below_->Insert(id, std::move(page), on_disk);
    return;
  }
  lru_.push_back(Entry{id, std::move(page), on_disk, now_});
  const bool inserted = entries_.emplace(id, std::prev(lru_.end())).second;
  VARVE_CHECK(inserted);
}

void MemoryTier::EraseEntry(EntryList::iterator entry) {
  entries_.erase(entry->id);
  lru_.erase(entry);
}

MemoryTier::Erased MemoryTier::Erase(const RecordId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) {
    return below_ == nullptr ? Erased::kAbsent : below_->Erase(id);
  }
  const bool on_disk = found->second->on_disk;
  EraseEntry(found->second);
  return on_disk ? Erased::kClean : Erased::kDirty;
}

void MemoryTier::EraseOwner(PageKey::Space space, uint64_t owner) {
  if (below_ != nullptr) {
    below_->EraseOwner(space, owner);
  }
  for (auto entry = lru_.begin(); entry != lru_.end();) {
    const auto next = std::next(entry);
    if (entry->id.key.space == space && entry->id.key.owner == owner) {
      EraseEntry(entry);
    }
    entry = next;
  }
}

void MemoryTier::EraseTailsBefore(uint64_t context,
                                  uint64_t version,
                                  std::span<const uint64_t> kept) {
  if (below_ != nullptr) {
    below_->EraseTailsBefore(context, version, kept);
  }
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

uint64_t MemoryTier::RecordBytes(const RecordId& id) const {
  const std::shared_ptr<ResidentPage> page = Peek(id);
  return page == nullptr ? 0 : page->bytes().size();
}

bool MemoryTier::MoveDown(const Entry& entry) {
  std::optional<MemoryCharge> charge =
      below_ == nullptr ? std::nullopt : below_->TryAdmit(entry.page->charge().bytes());
  if (!charge) {
    return false;
  }
  entry.page->MoveTo(std::move(*charge));
  below_->Insert(entry.id, entry.page, entry.on_disk);
  return true;
}

Result<void> MemoryTier::Evict(uint64_t bytes, uint64_t keep_free, bool idle_only) {
  if (disk_ == nullptr && below_ == nullptr) {
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
    if (!MoveDown(*entry)) {
      if (disk_ == nullptr) {
        ++entry;
        continue;
      }
      if (!entry->on_disk) {
        VARVE_RETURN_IF_ERROR(Spill(entry));
      }
    }
    EraseEntry(entry++);
  }
  return {};
}

Result<void> MemoryTier::Spill(EntryList::iterator first) {
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
