// The one way to read pages: walks the pages of one (sequence, layer) in page order, in batches,
// one batch ahead.
//
// A batch pins what is resident and fetches the rest from disk; its bytes are charged to the host
// tier before they are asked for. Records are verified on their first use after a write and on
// every read from disk.
#pragma once

#include <deque>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kvstore/kv_store.h"
#include "kvstore/memory_tier.h"
#include "kvstore/page_grid.h"
#include "kvstore/sealer.h"

namespace varve {

// What a store counts; any thread may read.
struct StoreCounters {
  std::atomic<uint64_t> page_reads_device{0};
  std::atomic<uint64_t> page_reads_host{0};
  std::atomic<uint64_t> page_reads_disk{0};
  std::atomic<uint64_t> disk_bytes_read{0};
  std::atomic<uint64_t> disk_bytes_written{0};
  std::atomic<uint64_t> pages_sealed{0};
  std::atomic<uint64_t> selective_pages_read{0};
  std::atomic<uint64_t> selective_pages_total{0};
  std::atomic<uint64_t> checksum_failures{0};
  std::atomic<int64_t> disk_read_us{0};  // a step waited for reads
  std::atomic<int64_t> disk_write_us{0};
  std::atomic<int64_t> num_pages{0};  // sealed pages held
};

// Sealed pages below end_page (and not below the range before) that lie under another context's id.
struct SharedRange {
  uint64_t owner = 0;
  int64_t end_page = 0;
};

// Consecutive pages that are read in the same way.
struct PageSegment {
  enum class Source { kSealed, kTail, kUnsealed };
  Source source = Source::kSealed;
  PageKey::Space space = PageKey::Space::kContext;
  uint64_t owner = 0;
  // Of kSealed: the pages that a fork shares; behind them, and if null, all are the owner's.
  std::shared_ptr<const std::vector<SharedRange>> shared;
  uint64_t tail_version = 0;  // of kTail
  uint64_t model_hash = 0;
  PageGrid grid;
  ResolvedPolicy policy;
  int64_t first_page = 0;  // pages [first_page, end_page)
  int64_t end_page = 0;
  int64_t first_position = 0;  // the owner's first own position: its first page may begin mid-grid
  int64_t length = 0;          // the owner's length, which cuts its last tail
  int64_t visible_end = 0;     // tokens from here on are not shown
  const std::map<int64_t, UnsealedRun>* runs = nullptr;  // of kUnsealed, by page
  // Which of the owned pages are read, ascending; nothing: all of them.
  std::optional<std::vector<int64_t>> chosen;

  // The lowest page >= page that is read; end_page or more if there is none.
  int64_t NextPage(int64_t page) const;
  uint64_t OwnerOf(int64_t page) const;
  RecordId IdOf(int64_t page, uint16_t layer) const;
  PageIdentity IdentityOf(int64_t page, uint16_t layer, const RunShape& shape) const;
};

// What a cursor works with; all outlive it.
struct PageCursorDeps {
  MemoryTier* memory = nullptr;  // the highest tier
  bool has_device = false;       // it is the device tier
  DiskTier* disk = nullptr;      // may be null
  const Sealer* sealer = nullptr;
  StoreCounters* counters = nullptr;
};

// Reads the segments' owned pages of `layer` in the order given.
std::unique_ptr<PageCursor> MakePageCursor(const PageCursorDeps& deps,
                                           uint16_t layer,
                                           std::vector<PageSegment> segments);

// One record, wherever it is: resident, else read from disk (and not kept). Errors as
// PageCursor::Next.
Result<std::shared_ptr<ResidentPage>> LoadRecord(const PageCursorDeps& deps,
                                                 const RecordId& id,
                                                 const PageIdentity& identity,
                                                 uint64_t record_bytes);

}  // namespace varve
