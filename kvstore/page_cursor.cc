#include "kvstore/page_cursor.h"

#include <algorithm>

#include "proto/base/clock.h"

namespace varve {
namespace {

using Records = std::vector<std::vector<std::byte>>;

// Views per batch: enough for one attention call to keep all threads busy, few enough to bound the
// tables.
constexpr size_t kBatchPagesMax = 512;

Error Missing(const PageKey& key) {
  return Error{ErrorCode::kPageMissing,
               DescribeKey(key) + " is not there, although its context names it"};
}

// Waits for a read and counts it.
Result<Records> Await(std::future<Result<Records>>& read, StoreCounters& counters) {
  const int64_t start_us = SystemClock().NowUs();
  Result<Records> records = read.get();
  counters.disk_read_us += SystemClock().NowUs() - start_us;
  if (!records && records.error().code == ErrorCode::kPageCorrupt) {
    ++counters.checksum_failures;
  }
  return records;
}

// Takes a record that was read from disk, verifies it and wraps it.
Result<std::shared_ptr<ResidentPage>> Adopt(std::vector<std::byte> bytes,
                                            const PageIdentity& identity,
                                            MemoryCharge charge,
                                            StoreCounters& counters) {
  if (bytes.empty()) {
    return Missing(identity.key);
  }
  counters.disk_bytes_read += bytes.size();
  charge.ShrinkTo(bytes.size() + MemoryTier::kRecordOverheadBytes);
  auto page = std::make_shared<ResidentPage>(std::move(bytes), identity, std::move(charge));
  if (auto used = page->Use(); !used) {
    counters.checksum_failures += used.error().code == ErrorCode::kPageCorrupt ? 1 : 0;
    return std::move(used).error();
  }
  return page;
}

class Cursor final : public PageCursor {
 public:
  Cursor(const PageCursorDeps& deps, uint16_t layer, std::vector<PageSegment> segments);
  ~Cursor() override;
  Result<std::span<const KvView>> Next() override;
  std::span<const int64_t> pages() const override { return pages_; }

 private:
  struct Slot {
    const PageSegment* segment = nullptr;
    int64_t page = 0;
    const UnsealedRun* run = nullptr;      // of an unsealed page
    std::shared_ptr<ResidentPage> record;  // of any other, once it is here
    MemoryCharge charge;                   // of a read in flight
  };
  struct Read {
    const PageSegment* segment = nullptr;
    std::vector<PageKey> keys;
    std::vector<size_t> slots;
    std::future<Result<Records>> records;
  };
  struct Batch {
    std::vector<Slot> slots;
    std::vector<Read> reads;
    std::optional<Error> failure;
  };

  void Advance(int64_t page);
  Batch Request();
  bool AddSlot(Batch& batch, uint64_t& fetched_bytes);
  uint64_t RecordBytes(const PageSegment& segment) const;
  Result<void> Receive(Batch& batch);
  Result<void> Keep(Slot& slot, std::vector<std::byte> bytes);
  Result<void> AddViews(Slot& slot);
  Result<void> AddRecordViews(const PageRecord& record, int64_t visible_end);
  void AddView(CodecId codec,
               std::span<const std::byte> encoded,
               int32_t token_capacity,
               int64_t num_tokens,
               int64_t first_position);
  static void Drain(Batch& batch);

  PageCursorDeps deps_;
  uint16_t layer_;
  std::vector<PageSegment> segments_;
  size_t segment_ = 0;  // where the next request goes on
  int64_t page_ = 0;
  Batch current_;
  Batch ahead_;
  std::vector<KvView> views_;
  std::vector<int64_t> pages_;  // [views]
};

Cursor::Cursor(const PageCursorDeps& deps, uint16_t layer, std::vector<PageSegment> segments)
    : deps_(deps), layer_(layer), segments_(std::move(segments)) {
  if (!segments_.empty()) {
    Advance(segments_[0].first_page);
  }
  ahead_ = Request();
}

Cursor::~Cursor() {
  Drain(ahead_);
  Drain(current_);
}

// The bytes of a read in flight belong to the I/O threads: they stay charged until those are done.
void Cursor::Drain(Batch& batch) {
  for (Read& read : batch.reads) {
    read.records.wait();
  }
  batch = Batch{};
}

// To the first page to be read at or behind `page`, in this segment or a later one.
void Cursor::Advance(int64_t page) {
  page_ = segments_[segment_].NextPage(page);
  while (page_ >= segments_[segment_].end_page) {
    if (++segment_ == segments_.size()) {
      return;
    }
    page_ = segments_[segment_].NextPage(segments_[segment_].first_page);
  }
}

Result<std::span<const KvView>> Cursor::Next() {
  views_.clear();
  pages_.clear();
  do {
    Drain(current_);
    current_ = std::exchange(ahead_, Batch{});
    if (current_.slots.empty()) {
      current_ = Request();  // the end, or there was no room beside the batch before
    }
    if (current_.failure) {
      return *current_.failure;
    }
    ahead_ = Request();
    VARVE_RETURN_IF_ERROR(Receive(current_));
    for (Slot& slot : current_.slots) {
      VARVE_RETURN_IF_ERROR(AddViews(slot));
      pages_.resize(views_.size(), slot.page);
    }
  } while (views_.empty() && !current_.slots.empty());
  return std::span<const KvView>(views_);
}

// The next batch: pins what is resident, charges and requests the rest. A batch without slots is
// the end, or, while another batch holds the room, none yet.
Cursor::Batch Cursor::Request() {
  Batch batch;
  uint64_t fetched_bytes = 0;
  while (segment_ < segments_.size() && batch.slots.size() < kBatchPagesMax &&
         AddSlot(batch, fetched_bytes)) {
    Advance(page_ + 1);
  }
  for (Read& read : batch.reads) {
    read.records = read.segment->source == PageSegment::Source::kTail
                       ? deps_.disk->GetTailPages(read.segment->tail_version, std::move(read.keys))
                       : deps_.disk->GetPages(std::move(read.keys));
  }
  return batch;
}

// Adds the page that comes next. False: the batch is full, or there is no room.
bool Cursor::AddSlot(Batch& batch, uint64_t& fetched_bytes) {
  const PageSegment& segment = segments_[segment_];
  const bool unsealed = segment.source == PageSegment::Source::kUnsealed;
  Slot slot{&segment, page_, nullptr, nullptr, {}};
  const MemoryTier* where = deps_.memory;
  if (unsealed) {
    const auto run = segment.runs->find(page_);
    slot.run = run == segment.runs->end() ? nullptr : &run->second;
  } else {
    slot.record = deps_.memory->Find(segment.IdOf(page_, layer_), &where);
  }
  if (slot.run != nullptr || slot.record != nullptr) {
    const bool on_device = deps_.has_device && where == deps_.memory;
    ++(on_device ? deps_.counters->page_reads_device : deps_.counters->page_reads_host);
  } else if (!unsealed && deps_.disk != nullptr) {
    const uint64_t bytes = RecordBytes(segment) + MemoryTier::kRecordOverheadBytes;
    if (fetched_bytes > 0 && fetched_bytes + bytes > deps_.memory->read_share()) {
      return false;
    }
    auto charge = deps_.memory->Reserve(bytes, "a page read from disk");
    if (!charge) {
      if (batch.slots.empty() && current_.slots.empty()) {
        batch.failure = charge.error();
      }
      return false;
    }
    slot.charge = std::move(charge).value();
    fetched_bytes += bytes;
    if (batch.reads.empty() || batch.reads.back().segment != &segment) {
      batch.reads.push_back(Read{&segment, {}, {}, {}});
    }
    batch.reads.back().keys.push_back(segment.IdOf(page_, layer_).key);
    batch.reads.back().slots.push_back(batch.slots.size());
  }
  batch.slots.push_back(std::move(slot));
  return true;
}

uint64_t Cursor::RecordBytes(const PageSegment& segment) const {
  const PageIdentity identity = segment.IdentityOf(page_, layer_, deps_.sealer->ShapeOf(1));
  return segment.source == PageSegment::Source::kTail
             ? deps_.sealer->TailBytes(segment.policy, identity)
             : deps_.sealer->SealedBytes(segment.policy, identity);
}

// Waits for all of the batch's reads, then keeps in the host tier what it admits.
Result<void> Cursor::Receive(Batch& batch) {
  std::vector<Result<Records>> received;
  for (Read& read : batch.reads) {
    received.push_back(Await(read.records, *deps_.counters));
  }
  const std::vector<Read> reads = std::exchange(batch.reads, {});
  for (size_t r = 0; r < reads.size(); ++r) {
    if (!received[r]) {
      return std::move(received[r]).error();
    }
    for (size_t i = 0; i < reads[r].slots.size(); ++i) {
      VARVE_RETURN_IF_ERROR(Keep(batch.slots[reads[r].slots[i]], std::move((*received[r])[i])));
    }
  }
  return {};
}

Result<void> Cursor::Keep(Slot& slot, std::vector<std::byte> bytes) {
  const PageIdentity identity =
      slot.segment->IdentityOf(slot.page, layer_, deps_.sealer->ShapeOf(1));
  VARVE_TRY(slot.record,
            Adopt(std::move(bytes), identity, std::move(slot.charge), *deps_.counters));
  ++deps_.counters->page_reads_disk;
  const RecordId id = slot.segment->IdOf(slot.page, layer_);
  deps_.memory->Offer(id, slot.record);
  return {};
}

Result<void> Cursor::AddViews(Slot& slot) {
  const PageSegment& segment = *slot.segment;
  if (slot.run != nullptr) {
    const UnsealedRun& run = *slot.run;
    const int64_t tokens =
        std::min<int64_t>(run.token_capacity, segment.visible_end - run.first_position);
    AddView(segment.policy.exact->id(), run.bytes, run.token_capacity, tokens, run.first_position);
    return {};
  }
  if (slot.record == nullptr) {
    return Missing(segment.IdOf(slot.page, layer_).key);
  }
  auto record = slot.record->Use();
  if (!record) {
    deps_.counters->checksum_failures += record.error().code == ErrorCode::kPageCorrupt ? 1 : 0;
    return std::move(record).error();
  }
  return AddRecordViews(**record, segment.visible_end);
}

Result<void> Cursor::AddRecordViews(const PageRecord& record, int64_t visible_end) {
  if (record.is_pruned &&
      visible_end < record.identity.first_position + record.identity.num_tokens) {
    return Error{ErrorCode::kUnsupported,
                 DescribeKey(record.identity.key) + " is pruned and cannot be cut short"};
  }
  for (const PageRun& run : record.runs) {
    const int64_t first_position = record.identity.first_position + run.first_token;
    const int64_t tokens = std::min<int64_t>(run.num_tokens, visible_end - first_position);
    const Result<RunContext> found = deps_.sealer->ContextOf(record, run);
    if (!found) {
      deps_.counters->checksum_failures += found.error().code == ErrorCode::kPageCorrupt ? 1 : 0;
      return found.error();
    }
    const RunContext& context = *found;
    AddView(run.codec->id(), run.encoded, run.token_capacity, tokens, first_position);
    if (tokens > 0) {
      views_.back().tables = context.tables;
      views_.back().rope = context.rope;
      views_.back().token_indices = run.token_indices;
      views_.back().token_weights = run.token_weights;
    }
  }
  return {};
}

void Cursor::AddView(CodecId codec,
                     std::span<const std::byte> encoded,
                     int32_t token_capacity,
                     int64_t num_tokens,
                     int64_t first_position) {
  if (num_tokens > 0) {
    KvView view{codec};
    view.encoded = encoded;
    view.token_capacity = token_capacity;
    view.num_tokens = static_cast<int32_t>(num_tokens);
    view.first_position = first_position;
    views_.push_back(view);
  }
}

}  // namespace

int64_t PageSegment::NextPage(int64_t page) const {
  if (!chosen) {
    return grid.NextOwned(page);
  }
  const auto next = std::lower_bound(chosen->begin(), chosen->end(), page);
  return next == chosen->end() ? std::max(page, end_page) : *next;
}

uint64_t PageSegment::OwnerOf(int64_t page) const {
  if (source == Source::kSealed && shared != nullptr) {
    for (const SharedRange& range : *shared) {
      if (page < range.end_page) {
        return range.owner;
      }
    }
  }
  return owner;
}

RecordId PageSegment::IdOf(int64_t page, uint16_t layer) const {
  return {PageKey{space, OwnerOf(page), layer, layer, static_cast<uint64_t>(page)},
          source == Source::kTail ? tail_version : 0};
}

PageIdentity PageSegment::IdentityOf(int64_t page, uint16_t layer, const RunShape& shape) const {
  const RecordId id = IdOf(page, layer);
  PageIdentity identity;
  identity.key = id.key;
  identity.kind = source == Source::kTail ? RecordKind::kTail : RecordKind::kSealed;
  identity.commit_version = id.tail_version;
  identity.model_hash = model_hash;
  identity.num_kv_heads = shape.num_kv_heads;
  identity.head_dim = shape.head_dim;
  identity.page_tokens = grid.page_tokens();
  identity.first_position = std::max(grid.FirstPosition(page), first_position);
  const int64_t end =
      source == Source::kTail ? std::min(grid.EndPosition(page), length) : grid.EndPosition(page);
  identity.num_tokens = static_cast<int32_t>(end - identity.first_position);
  return identity;
}

std::unique_ptr<PageCursor> MakePageCursor(const PageCursorDeps& deps,
                                           uint16_t layer,
                                           std::vector<PageSegment> segments) {
  return std::make_unique<Cursor>(deps, layer, std::move(segments));
}

Result<std::shared_ptr<ResidentPage>> LoadRecord(const PageCursorDeps& deps,
                                                 const RecordId& id,
                                                 const PageIdentity& identity,
                                                 uint64_t record_bytes) {
  if (auto resident = deps.memory->Find(id)) {
    VARVE_RETURN_IF_ERROR(resident->Use());
    return resident;
  }
  if (deps.disk == nullptr) {
    return Missing(id.key);
  }
  VARVE_TRY(MemoryCharge charge,
            deps.memory->Reserve(record_bytes + MemoryTier::kRecordOverheadBytes,
                                 "a page read from disk"));
  auto read = id.tail_version == 0 ? deps.disk->GetPages({id.key})
                                   : deps.disk->GetTailPages(id.tail_version, {id.key});
  VARVE_TRY(Records records, Await(read, *deps.counters));
  return Adopt(std::move(records.at(0)), identity, std::move(charge), *deps.counters);
}

}  // namespace varve
