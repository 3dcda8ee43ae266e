#include "kvstore/disk_tier.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <rocksdb/write_batch.h>

#include "kvstore/disk_tier_rocks.h"
#include "proto/base/clock.h"
#include "proto/base/units.h"

namespace varve {
namespace {

// Keys per MultiGet: enough to sort reads by file, few enough that its copies stay small beside the
// host budget.
constexpr size_t kReadChunkKeys = 16;

Table TableOf(const PageKey& key) {
  return key.space == PageKey::Space::kContext ? Table::kPages : Table::kScratch;
}

std::vector<std::byte> ToBytes(const rocksdb::Slice& slice) {
  const auto* data = reinterpret_cast<const std::byte*>(slice.data());
  return {data, data + slice.size()};
}

}  // namespace

std::string IndexKey(Table table, std::string_view key) {
  std::string row(1, kTableLetters[static_cast<size_t>(table)]);
  row.append(key);
  return row;
}

rocksdb::Status RocksDiskTier::WriteOnce(rocksdb::WriteBatch& batch, bool durable) {
  rocksdb::WriteOptions write;
  write.disableWAL = !durable;
  write.sync = durable;
  const rocksdb::Status status = db_->Write(write, &batch);
  unflushed_bytes_ += batch.GetDataSize();
  file_bytes_written_ += durable ? batch.GetDataSize() : 0;  // to the log
  BoundMemory();
  return status;
}

rocksdb::Status RocksDiskTier::Write(rocksdb::WriteBatch& batch, bool durable) {
  rocksdb::Status status = WriteOnce(batch, durable);
  // The status of a write does not tell whether an earlier background error refused it: ask.
  if (!status.ok() && Resume(status)) {
    status = WriteOnce(batch, durable);
  }
  return status;
}

Result<uint64_t> RocksDiskTier::CountedBytes(Table table, std::string_view key) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status status = db_->Get(
      rocksdb::ReadOptions(), handle(Table::kIndex), ToSlice(IndexKey(table, key)), &value);
  if (status.IsNotFound()) {
    return uint64_t{0};
  }
  if (!status.ok()) {
    return ReadError(status, "read the index");
  }
  return ReadBigEndian(ToView(value), 4);
}

void RocksDiskTier::PutRow(const Row& row, rocksdb::WriteBatch& batch) const {
  std::string counted;
  AppendBigEndian(counted, row.record.size() + kRecordRowBytes, 4);
  // Only a batch of bad size makes these fail, and the write then says so.
  batch.Put(handle(row.table), row.key, ToSlice(row.record)).PermitUncheckedError();
  batch.Put(handle(Table::kIndex), IndexKey(row.table, row.key), counted).PermitUncheckedError();
}

Result<void> RocksDiskTier::PutRows(std::span<const Row> rows) {
  const int64_t start_us = SystemClock().NowUs();
  rocksdb::WriteBatch batch;
  uint64_t asked = 0;
  uint64_t replaced = 0;
  uint64_t payload = 0;
  for (const Row& row : rows) {
    VARVE_TRY(const uint64_t old_bytes, CountedBytes(row.table, row.key));
    replaced += old_bytes;
    const uint64_t bytes = row.record.size() + kRecordRowBytes;
    VARVE_CHECK(bytes <= UINT32_MAX);
    asked += bytes;
    payload += row.record.size();
    PutRow(row, batch);
  }
  {
    const std::lock_guard lock(mutex_);
    if (options_.budget_bytes != 0 && used_ - replaced + asked > options_.budget_bytes) {
      return Error{ErrorCode::kBudgetExceeded,
                   fmt::format("{}: the disk budget of {} cannot hold {} more: {} are in use",
                               options_.directory,
                               FormatBytes(options_.budget_bytes),
                               FormatBytes(asked),
                               FormatBytes(used_))};
    }
    used_ = used_ - replaced + asked;
  }
  const rocksdb::Status status = Write(batch, false);
  write_us_ += SystemClock().NowUs() - start_us;
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    used_ = used_ + replaced - asked;
    return WriteError(status, "write records");
  }
  bytes_written_ += payload;
  return {};
}

// Forgets rows; those that are not there are passed over. REQUIRES: mutex_ is held.
Result<void> RocksDiskTier::DeleteRowsLocked(std::span<const Row> rows) {
  rocksdb::WriteBatch batch;
  std::array<uint64_t, kNumTables> freed{};
  for (const Row& row : rows) {
    VARVE_TRY(const uint64_t bytes, CountedBytes(row.table, row.key));
    if (bytes > 0) {
      freed[static_cast<size_t>(row.table)] += bytes;
      batch.Delete(handle(row.table), row.key).PermitUncheckedError();
      batch.Delete(handle(Table::kIndex), IndexKey(row.table, row.key)).PermitUncheckedError();
    }
  }
  if (batch.Count() == 0) {
    return {};
  }
  if (const rocksdb::Status status = Write(batch, false); !status.ok()) {
    return WriteError(status, "delete records");
  }
  for (size_t table = 0; table < kNumTables; ++table) {
    used_ -= freed[table];
    NoteGarbage(static_cast<Table>(table), freed[table]);
  }
  return {};
}

Result<void> RocksDiskTier::PutPages(std::span<const PageKey> keys,
                                     std::span<const std::span<const std::byte>> records) {
  VARVE_CHECK(keys.size() == records.size());
  std::vector<Row> rows;
  for (size_t i = 0; i < keys.size(); ++i) {
    rows.push_back({TableOf(keys[i]), PageRowKey(keys[i]), records[i]});
  }
  return PutRows(rows);
}

// Under the mutex of the deletions: what they delete stays deleted. It never asks RocksDB to go on
// after an error: whoever tries again every second would, and nothing is lost by waiting.
Result<std::vector<bool>> RocksDiskTier::ReplacePages(
    std::span<const PageKey> keys,
    std::span<const std::span<const std::byte>> records,
    std::span<const uint64_t> old_bytes) {
  VARVE_CHECK(keys.size() == records.size() && keys.size() == old_bytes.size());
  const int64_t start_us = SystemClock().NowUs();
  const std::lock_guard lock(mutex_);
  rocksdb::WriteBatch batch;
  std::vector<bool> replaced(keys.size());
  uint64_t freed = 0;
  uint64_t used = 0;
  uint64_t payload = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    const Row row{TableOf(keys[i]), PageRowKey(keys[i]), records[i]};
    VARVE_TRY(const uint64_t counted, CountedBytes(row.table, row.key));
    replaced[i] = counted == old_bytes[i] + kRecordRowBytes && records[i].size() <= old_bytes[i];
    if (replaced[i]) {
      freed += counted;
      used += records[i].size() + kRecordRowBytes;
      payload += records[i].size();
      PutRow(row, batch);
    }
  }
  if (batch.Count() == 0) {
    return replaced;
  }
  const rocksdb::Status status = WriteOnce(batch, false);
  write_us_ += SystemClock().NowUs() - start_us;
  if (!status.ok()) {
    return WriteError(status, "replace records");
  }
  used_ = used_ + used - freed;
  NoteGarbage(TableOf(keys[0]), freed);
  bytes_written_ += payload;
  return replaced;
}

Result<void> RocksDiskTier::DeletePages(std::span<const PageKey> keys) {
  std::vector<Row> rows;
  for (const PageKey& key : keys) {
    rows.push_back({TableOf(key), PageRowKey(key), {}});
  }
  const std::lock_guard lock(mutex_);
  return DeleteRowsLocked(rows);
}

Result<void> RocksDiskTier::PutTail(ContextId context,
                                    uint64_t version,
                                    const PageKey& key,
                                    std::span<const std::byte> record) {
  VARVE_CHECK(key.owner == context.value && key.space == PageKey::Space::kContext);
  const Row row{Table::kTails, TailRowKey(version, key), record};
  return PutRows({&row, 1});
}

// A batch that the I/O threads read in chunks; the last one to finish hands it over.
struct RocksDiskTier::PendingRead {
  Table table;
  std::vector<std::string> keys;
  Records records;
  std::promise<Result<Records>> done;
  std::mutex mutex;
  size_t chunks_left = 0;        // guarded by mutex
  std::optional<Error> failure;  // guarded by mutex
};

std::future<Result<RocksDiskTier::Records>> RocksDiskTier::GetRecords(
    Table table,
    std::vector<std::string> keys) {
  auto read = std::make_shared<PendingRead>();
  read->table = table;
  read->keys = std::move(keys);
  read->records.resize(read->keys.size());
  auto result = read->done.get_future();
  const size_t count = read->keys.size();
  if (count == 0) {
    read->done.set_value(Records{});
    return result;
  }
  const size_t share = (count + static_cast<size_t>(io_->num_threads()) - 1) /
                       static_cast<size_t>(io_->num_threads());
  const size_t chunk = std::min(share, kReadChunkKeys);
  read->chunks_left = (count + chunk - 1) / chunk;
  for (size_t first = 0; first < count; first += chunk) {
    io_->Submit(
        [this, read, first, end = std::min(first + chunk, count)] { ReadChunk(read, first, end); });
  }
  return result;
}

void RocksDiskTier::ReadChunk(const std::shared_ptr<PendingRead>& read, size_t first, size_t end) {
  const int64_t start_us = SystemClock().NowUs();
  const size_t count = end - first;
  std::vector<rocksdb::Slice> keys(read->keys.begin() + static_cast<ptrdiff_t>(first),
                                   read->keys.begin() + static_cast<ptrdiff_t>(end));
  std::vector<rocksdb::PinnableSlice> values(count);
  std::vector<rocksdb::Status> statuses(count);
  // Records carry a checksum of their own, which says more: also whose they are.
  rocksdb::ReadOptions options;
  options.verify_checksums = false;
  db_->MultiGet(options, handle(read->table), count, keys.data(), values.data(), statuses.data());
  std::optional<Error> failure;
  for (size_t i = 0; i < count; ++i) {
    if (statuses[i].ok()) {
      read->records[first + i] = ToBytes(values[i]);
      bytes_read_ += values[i].size();
    } else if (!statuses[i].IsNotFound() && !failure) {
      failure = ReadError(statuses[i], "read a record");
    }
  }
  read_us_ += SystemClock().NowUs() - start_us;
  const std::lock_guard lock(read->mutex);
  read->failure = read->failure ? read->failure : failure;
  if (--read->chunks_left == 0) {
    read->done.set_value(read->failure ? Result<Records>(*read->failure)
                                       : Result<Records>(std::move(read->records)));
  }
}

std::future<Result<RocksDiskTier::Records>> RocksDiskTier::GetPages(std::vector<PageKey> keys) {
  std::vector<std::string> rows;
  for (const PageKey& key : keys) {
    VARVE_CHECK(key.space == keys[0].space);
    rows.push_back(PageRowKey(key));
  }
  return GetRecords(keys.empty() ? Table::kPages : TableOf(keys[0]), std::move(rows));
}

std::future<Result<RocksDiskTier::Records>> RocksDiskTier::GetTailPages(uint64_t version,
                                                                        std::vector<PageKey> keys) {
  std::vector<std::string> rows;
  for (const PageKey& key : keys) {
    rows.push_back(TailRowKey(version, key));
  }
  return GetRecords(Table::kTails, std::move(rows));
}

Result<std::vector<std::pair<PageKey, std::vector<std::byte>>>> RocksDiskTier::GetTails(
    ContextId context,
    uint64_t version) {
  VARVE_TRY(const auto rows, ListRows(Table::kTails, ManifestRowKey(context, version)));
  std::vector<std::string> keys;
  std::vector<std::pair<PageKey, std::vector<std::byte>>> tails;
  for (const auto& [row, bytes] : rows) {
    keys.push_back(row);
    // A tail's row is a page's row with the version behind the owner.
    tails.emplace_back(ParsePageRowKey(PageKey::Space::kContext, row.substr(0, 8) + row.substr(16)),
                       std::vector<std::byte>());
  }
  VARVE_TRY(Records records, GetRecords(Table::kTails, std::move(keys)).get());
  for (size_t i = 0; i < records.size(); ++i) {
    tails[i].second = std::move(records[i]);
  }
  return tails;
}

Result<std::vector<std::pair<std::string, uint64_t>>> RocksDiskTier::ListRows(
    Table table,
    std::string_view prefix) const {
  const std::string first = IndexKey(table, prefix);
  const std::unique_ptr<rocksdb::Iterator> rows(
      db_->NewIterator(rocksdb::ReadOptions(), handle(Table::kIndex)));
  std::vector<std::pair<std::string, uint64_t>> found;
  for (rows->Seek(first); rows->Valid() && rows->key().starts_with(first); rows->Next()) {
    found.emplace_back(ToView(rows->key()).substr(1), ReadBigEndian(ToView(rows->value()), 4));
  }
  if (!rows->status().ok()) {
    return ReadError(rows->status(), "list the index");
  }
  return found;
}

Result<std::vector<PageKey>> RocksDiskTier::ListPages(ContextId context) {
  VARVE_TRY(const auto rows, ListRows(Table::kPages, OwnerPrefix(context.value)));
  std::vector<PageKey> keys;
  for (const auto& [row, bytes] : rows) {
    keys.push_back(ParsePageRowKey(PageKey::Space::kContext, row));
  }
  return keys;
}

Result<std::vector<PageKey>> RocksDiskTier::ListLayerPages(ContextId context, uint16_t layer) {
  VARVE_TRY(const auto pages, ListLayerPageBytes(context, layer));
  std::vector<PageKey> keys;
  for (const auto& [key, bytes] : pages) {
    keys.push_back(key);
  }
  return keys;
}

Result<std::vector<std::pair<PageKey, uint64_t>>> RocksDiskTier::ListLayerPageBytes(
    ContextId context,
    uint16_t layer) {
  std::string prefix = OwnerPrefix(context.value);
  AppendBigEndian(prefix, layer, 2);
  VARVE_TRY(const auto rows, ListRows(Table::kPages, prefix));
  std::vector<std::pair<PageKey, uint64_t>> pages;
  for (const auto& [row, bytes] : rows) {
    pages.emplace_back(ParsePageRowKey(PageKey::Space::kContext, row), bytes - kRecordRowBytes);
  }
  return pages;
}

DiskTier::Stats RocksDiskTier::GetStats() const {
  Stats stats;
  {
    const std::lock_guard lock(mutex_);
    stats.bytes = {used_, options_.budget_bytes};
  }
  for (size_t fault = 0; fault < errors_.size(); ++fault) {
    stats.errors[fault] = errors_[fault];
  }
  stats.bytes_read = bytes_read_;
  stats.bytes_written = bytes_written_;
  stats.file_bytes_written = file_bytes_written_;
  stats.read_seconds = static_cast<double>(read_us_) * 1e-6;
  stats.write_seconds = static_cast<double>(write_us_) * 1e-6;
  return stats;
}

}  // namespace varve
