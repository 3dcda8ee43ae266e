#include "kvstore/demoter.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"

namespace varve {
namespace {

// A tenth of the weight of an ordinary thread: steps come first. Not lower, for the disk tier's
// locks are held meanwhile.
constexpr int kNiceness = 10;

}  // namespace

void Demoter::Start(DemotionBatch batch) {
  VARVE_CHECK(!is_busy_);
  is_busy_ = true;
  is_done_ = false;
  cancelled_ = false;
  owner_ = batch.owner;
  batch_ = std::move(batch);
  if (thread_ == nullptr) {
    thread_ = std::make_unique<IoPool>(1);
    thread_->Submit([] {
      // Linux counts niceness by thread. Without the right to it the batches are as before.
      const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
      (void)::setpriority(PRIO_PROCESS, thread, kNiceness);
    });
  }
  thread_->Submit([this] { Run(); });
}

std::optional<DemotionBatch> Demoter::TryTake() {
  const std::lock_guard lock(mutex_);
  if (!is_busy_ || !is_done_) {
    return std::nullopt;
  }
  is_busy_ = false;
  return std::move(batch_);
}

DemotionBatch Demoter::Take(bool cancel) {
  VARVE_CHECK(is_busy_);
  cancelled_ = cancel;
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return is_done_; });
  is_busy_ = false;
  return std::move(batch_);
}

void Demoter::Run() {
  const int64_t start_us = ThreadCpuUs();
  num_failed_ = 0;
  std::vector<std::vector<std::byte>> read(batch_.items.size());
  const Result<void> is_read = ReadAbsent(read);
  for (size_t i = 0; i < batch_.items.size(); ++i) {
    DemotionItem& item = batch_.items[i];
    const bool resident = item.resident != nullptr;
    if (cancelled_) {
      item.outcome = DemotionItem::Outcome::kGone;
    } else if (!resident && !is_read) {
      Fail(item, DemotionFailure::kRead, is_read.error());
    } else if (!resident && read[i].empty()) {
      item.outcome = DemotionItem::Outcome::kGone;
    } else {
      Encode(item, resident ? item.resident->bytes() : std::span<const std::byte>(read[i]));
    }
    read[i] = {};
  }
  if (disk_ != nullptr) {
    Write();
  }
  batch_.cpu_us = ThreadCpuUs() - start_us;
  {
    const std::lock_guard lock(mutex_);
    is_done_ = true;
  }
  done_.notify_all();
}

// What is not in memory, into its item's place.
Result<void> Demoter::ReadAbsent(std::vector<std::vector<std::byte>>& records) {
  std::vector<PageKey> keys;
  std::vector<size_t> places;
  for (size_t i = 0; i < batch_.items.size(); ++i) {
    if (batch_.items[i].resident == nullptr) {
      keys.push_back(batch_.items[i].id.key);
      places.push_back(i);
    }
  }
  if (keys.empty() || disk_ == nullptr) {
    return {};
  }
  VARVE_TRY(auto found, disk_->GetPages(std::move(keys)).get());
  for (size_t i = 0; i < places.size(); ++i) {
    records[places[i]] = std::move(found[i]);
  }
  return {};
}

// The record is checked whatever its past: a damaged one must not get a new, valid checksum.
void Demoter::Encode(DemotionItem& item, std::span<const std::byte> bytes) {
  const Result<PageRecord> parsed = ParsePageRecord(bytes, item.identity);
  if (!parsed) {
    return Fail(item, DemotionFailure::kRead, parsed.error());
  }
  Result<std::vector<std::byte>> record =
      sealer_.Reencode(batch_.policy, item.rung, *parsed, bytes.size());
  if (!record) {
    return Fail(item, DemotionFailure::kRead, record.error());
  }
  item.record_bytes = bytes.size();
  if (record->empty()) {
    item.outcome = DemotionItem::Outcome::kAsItIs;
    item.stands_on = sealer_.RungOf(batch_.policy, *parsed).value_or(item.rung);
    return;
  }
  item.record = std::move(*record);
  item.key_centroids.assign(sealer_.key_centroids().begin(), sealer_.key_centroids().end());
  item.outcome = DemotionItem::Outcome::kReplaced;
}

void Demoter::Write() {
  std::vector<PageKey> keys;
  std::vector<std::span<const std::byte>> records;
  std::vector<uint64_t> old_bytes;
  std::vector<DemotionItem*> items;
  for (DemotionItem& item : batch_.items) {
    if (item.outcome == DemotionItem::Outcome::kReplaced) {
      keys.push_back(item.id.key);
      records.emplace_back(item.record);
      old_bytes.push_back(item.record_bytes);
      items.push_back(&item);
    }
  }
  if (items.empty() || cancelled_) {
    for (DemotionItem* item : items) {
      item->outcome = DemotionItem::Outcome::kGone;
    }
    return;
  }
  const Result<std::vector<bool>> replaced = disk_->ReplacePages(keys, records, old_bytes);
  for (size_t i = 0; i < items.size(); ++i) {
    if (!replaced) {
      Fail(*items[i], DemotionFailure::kWrite, replaced.error());
    } else if (!(*replaced)[i]) {
      items[i]->outcome = DemotionItem::Outcome::kGone;
    }
  }
}

void Demoter::Fail(DemotionItem& item, DemotionFailure failure, const Error& error) {
  item.outcome = DemotionItem::Outcome::kFailed;
  item.failure = failure;
  item.record = {};
  if (num_failed_++ == 0) {  // of a batch, the others say the same
    spdlog::warn("{} stays as it is: {}", DescribeKey(item.id.key), error.message);
  }
}

}  // namespace varve
