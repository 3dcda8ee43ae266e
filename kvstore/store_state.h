// What a store remembers about its contexts and its open sequences. Plain data; kv_store_impl.h
// says who changes it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "kvstore/key_index.h"
#include "kvstore/key_sketch.h"
#include "kvstore/memory_tier.h"
#include "kvstore/page_cursor.h"
#include "kvstore/page_grid.h"
#include "kvstore/page_ladder.h"
#include "kvstore/sealer.h"
#include "proto/base/ids.h"
#include "proto/context_manifest.h"
#include "proto/step_plan.h"

namespace varve {

// The sealed pages that sliding-window layers hold: those of global layers follow from the length.
using WindowPages = std::vector<std::set<int64_t>>;  // [num_layers]

struct ContextState;

// What this store holds under one context's id: pages and tails that the context itself or a fork
// reads. It stays for as long as one of them is registered.
struct PageOwner {
  uint64_t id = 0;
  std::vector<ContextState*> readers;  // in order of registration
  int64_t first_page = 0;              // of a fork, its pages begin here
  // [num_layers] Of global layers: the sealed pages are those from first_page to here.
  std::vector<int64_t> sealed_end;
  WindowPages window_pages;          // of sliding-window layers
  std::set<uint64_t> tail_versions;  // committed ones
  // Of a policy with a ladder; else null. Sealed pages of global layers from first_page on, the
  // ingest's, too.
  std::unique_ptr<PageLadder> ladder;
  int64_t last_read_us = 0;  // a request began a step on it
};

// Pages from first_page on and below end_page that a context reads under an owner's id.
struct OwnedRange {
  std::shared_ptr<PageOwner> owner;
  int64_t first_page = 0;
  int64_t end_page = 0;
};

// A registered context: its committed state, and who uses it.
struct ContextState {
  ContextManifest committed;
  ResolvedPolicy policy;
  PageGrid grid;
  std::shared_ptr<PageOwner> own;
  std::vector<OwnedRange> shared;                                 // of a fork, in order
  std::shared_ptr<const std::vector<SharedRange>> shared_ranges;  // the same, as segments want it
  std::shared_ptr<PageOwner> tail_owner;                          // of committed.committed_tail()
  std::optional<SequenceId> ingest;
  // Open requests: the tails and lengths that they read keep old tails and window pages alive.
  std::multiset<TailRef> snapshot_tails;
  std::multiset<int64_t> snapshot_tokens;
  // [num_layers], of a policy that selects pages; else empty. Sealed pages from the first on, the
  // ingest's as far as there were all before: requests fill the rest.
  std::vector<KeyIndex> key_indexes;
  // [num_layers] once a request attended selectively, else empty: what it ranks pages by.
  std::vector<KeySketch> key_sketches;
  MemoryCharge charge;

  bool in_use() const { return ingest.has_value() || !snapshot_tails.empty(); }
};

// An open sequence: an ingest (it is its context) or a request (it may read one).
struct SequenceState {
  SequenceId id;
  std::shared_ptr<ContextState> context;  // null for a request without a context
  bool is_ingest = false;
  ResolvedPolicy policy;  // of the sequence's own pages
  PageGrid grid;
  uint64_t model_hash = 0;
  // The snapshot that a request reads: positions [0, base_tokens) of the context when it was
  // base_length tokens long and its tail was base_tail.
  int64_t base_tokens = 0;
  bool reads_every_page = false;
  std::optional<SelectiveAttention> selective;
  int64_t base_length = 0;
  TailRef base_tail;

  int64_t length = 0;
  int32_t step_tokens = 0;                           // > 0: between BeginStep and EndStep
  std::vector<int64_t> sealed_end;                   // [num_layers] own pages below are sealed
  WindowPages window_pages;                          // of a request; an ingest's are its context's
  PageReads selected_reads;                          // of a request on a context that selects pages
  std::vector<std::map<int64_t, UnsealedRun>> runs;  // [num_layers] by page
  MemoryCharge charge;

  PageKey::Space space() const {
    return is_ingest ? PageKey::Space::kContext : PageKey::Space::kScratch;
  }
  uint64_t owner() const { return is_ingest ? context->committed.id.value : id.value; }
  int64_t own_first_page() const { return grid.PageOf(base_tokens); }
};

}  // namespace varve
