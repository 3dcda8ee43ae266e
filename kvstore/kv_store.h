// The KV of one worker: the pages of every open sequence and context that this worker owns, over
// the host tier and the disk tier.
//
// A sequence's positions are cut into pages on a fixed grid, page p = positions [p * page_tokens,
// (p + 1) * page_tokens), and this store keeps only the pages of its shard (Owns). The newest pages
// are unsealed: runs of an exact codec that grow in place. A page is sealed when all its tokens are
// older than the recent window: encoded, checksummed, summarised; pages of a context are written to
// disk when sealed, and again only if the context has a ladder and they go down a rung. Memory is a
// budget: sealed pages that are on disk may be dropped from it at any time and are read back,
// batched and ahead of use, by PageCursor.
//
// A request reads a snapshot of a context (its first base_tokens tokens) and writes a private,
// transient tail behind it. Sliding-window layers keep only the pages that the next position can
// still see.
//
// Threads: one caller at a time (the worker's step, or Maintain between steps). Disk reads and
// writes run on the DiskTier's own threads. Next: kernels/attend.h (what is done with the views).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/attend.h"
#include "kvstore/disk_tier.h"
#include "kvstore/kv_geometry.h"
#include "kvstore/page_chooser.h"
#include "proto/base/ids.h"
#include "proto/base/result.h"
#include "proto/context_manifest.h"
#include "proto/worker_group.h"

namespace varve {

struct KvStoreOptions {
  KvGeometry geometry;
  Shard shard;
  // Everything this store holds in memory: tails, sealed pages, read buffers. 0: unlimited.
  uint64_t host_budget_bytes = 0;
  // > 0: a tier above the host's, for what attention works with: tails, workspaces, reads, the
  // pages that rank highest. Without a GPU it is memory like the host's, counted apart.
  uint64_t device_budget_bytes = 0;
  // Of one core, that encoding pages anew may take on average.
  double demotion_cpu_share = 0.1;
};

// What selective attention may leave out of a layer.
struct SelectablePages {
  // Owned sealed pages of the context behind its sinks, ascending.
  std::vector<int64_t> pages;
  int64_t budget = 0;  // this worker's share of the most that a step reads of them
};

// Walks the pages of one (sequence, layer) in page order. "One way to read a page": checks, fetches
// and pins.
class PageCursor {
 public:
  // The next batch of views, in page order; empty at the end. Valid until the next call or the
  // cursor's end. Pages that are not resident were requested one batch ahead, so that reading
  // overlaps the attention over the batch before. Errors: kPageCorrupt (checksum), kPageMissing,
  // kIoError, kBudgetExceeded.
  virtual Result<std::span<const KvView>> Next() = 0;
  // The page of each view of the last batch: [num_views]. A page can have several views.
  virtual std::span<const int64_t> pages() const = 0;
  virtual ~PageCursor() = default;
};

class KvStore {
 public:
  // `disk` is shared by the workers of a process and outlives the store; null: nothing durable,
  // nothing spills.
  static Result<std::unique_ptr<KvStore>> Open(const KvStoreOptions& options, DiskTier* disk);
  virtual ~KvStore() = default;

  // Whether the page that holds `position` of this sequence belongs to this worker.
  virtual bool Owns(SequenceId sequence, int64_t position) const = 0;

  virtual Result<void> OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) = 0;
  // Frees a request's tail; an ingest falls back to its last committed state.
  virtual Result<void> CloseSequence(SequenceId sequence) = 0;

  // Makes room for num_tokens tokens at first_position (which must be the sequence's length) in
  // every layer, so that the step cannot fail half-way: kBudgetExceeded, kConflict (wrong position)
  // or kNotFound here, before anything is computed. The first step of a request on a context that
  // selects pages and was recovered, and the first one of a request whose attention is selective,
  // read all sealed pages once, with PageCursor's errors.
  virtual Result<void> BeginStep(SequenceId sequence,
                                 int64_t first_position,
                                 int32_t num_tokens) = 0;
  // Stores the owned ones of the tokens at first_position.. in one layer. k, v: [num_tokens,
  // num_kv_heads, head_dim], `token_stride` floats apart.
  virtual void Append(SequenceId sequence,
                      int32_t layer,
                      int64_t first_position,
                      int32_t num_tokens,
                      const float* k,
                      const float* v,
                      size_t token_stride) = 0;
  // Whether the sequence's token policy judges tokens by the attention they get. The queries of
  // every layer are then shown to Observe, in the step in which Append gets their k and v. The
  // answer is the same on every worker.
  virtual bool ObservesQueries(SequenceId sequence) const = 0;
  // q: [num_tokens, num_qo_heads, head_dim] after RoPE, `token_stride` floats apart.
  virtual void Observe(SequenceId sequence,
                       int32_t layer,
                       int64_t first_position,
                       int32_t num_tokens,
                       const float* q,
                       size_t token_stride) = 0;
  // The owned pages of `layer` that queries at positions [first_query, last_query] may see, the
  // tokens appended in this step included. Of a context whose policy selects pages, a request that
  // does not want every page gets those sealed ones that its queries choose
  // (kvstore/page_chooser.h). q: as for Observe; null: not known, every page is read. A request
  // whose attention is selective gets what it may not leave out.
  virtual std::unique_ptr<PageCursor> Read(SequenceId sequence,
                                           int32_t layer,
                                           int64_t first_query,
                                           int64_t last_query,
                                           const float* q,
                                           size_t q_stride) = 0;
  // Whether the attention that the sequence's decode steps give to pages is worth knowing: it is a
  // request on a context with a ladder. Of such a sequence, each layer of a step may then be shown.
  virtual bool ObservesMass(SequenceId sequence) const = 0;
  // pages: as PageCursor::pages(), of all views of a layer; shares: what part of the attention over
  // this store's pages each had, or an estimate in proportion to it.
  virtual void ObserveMass(SequenceId sequence,
                           int32_t layer,
                           std::span<const int64_t> pages,
                           std::span<const float> shares) = 0;
  // Selective attention: the caller decides which pages of the context are read, by estimates of
  // the attention that each would get. Null: the sequence's attention is not selective; the same on
  // every worker.
  virtual const SelectiveAttention* Selective(SequenceId sequence) const = 0;
  // None in sliding-window layers. Read leaves these pages out for sequences whose attention is
  // selective.
  virtual SelectablePages Selectable(SequenceId sequence, int32_t layer) const = 0;
  // Estimates of the lse of each selectable page for each query and head (kvstore/key_sketch.h).
  // lse: [pages, queries.num_tokens, num_qo_heads].
  virtual void EstimatePages(SequenceId sequence,
                             int32_t layer,
                             const StepQueries& queries,
                             AttendScratch& scratch,
                             ThreadTeam& team,
                             float* lse) = 0;
  // Some of the selectable pages, ascending.
  virtual std::unique_ptr<PageCursor> ReadPages(SequenceId sequence,
                                                int32_t layer,
                                                std::vector<int64_t> pages) = 0;
  // Adds what a step read in a layer, and what it states of its error.
  virtual void NoteReads(SequenceId sequence, const PageReads& reads) = 0;

  // Since it was opened; nothing unless it is a request that chooses pages.
  virtual std::optional<PageReads> SelectedReads(SequenceId sequence) const = 0;
  // The step is over: the sequence is num_tokens longer. Seals what became old, drops what no
  // window reaches.
  virtual Result<void> EndStep(SequenceId sequence) = 0;
  // The step failed after BeginStep: forgets its tokens.
  virtual void AbortStep(SequenceId sequence) = 0;

  virtual int64_t SequenceLength(SequenceId sequence) const = 0;  // -1: not open

  // Contexts. CreateContext and Recover register a context with this store (Recover: with its
  // committed pages and tail, read from disk when first used). PrepareCommit writes this worker's
  // unsealed tail of the open ingest `sequence` as part of `manifest.version`; the pages were
  // written when sealed. After DiskTier::CommitManifest has made the version durable, FinishCommit
  // lets go of what only the version before needed.
  virtual Result<void> CreateContext(const ContextManifest& manifest) = 0;
  // Registers ForkOf(what `source` has committed): nothing is read or copied, what it names stays
  // for as long as it is registered. DiskTier::WriteManifest makes it durable. kNotFound,
  // kAlreadyExists, kConflict (another state of `source`).
  virtual Result<void> ForkContext(ContextId source, const ContextManifest& manifest) = 0;
  // Takes over what changes without a commit: pages of a pinned context stay hot. kNotFound.
  virtual Result<void> UpdateContext(const ContextManifest& manifest) = 0;
  virtual Result<void> RecoverContext(const ContextManifest& manifest) = 0;
  // After the last RecoverContext: deletes what a crash kept of what no context reads any more.
  virtual Result<void> FinishRecovery() = 0;
  virtual Result<void> PrepareCommit(SequenceId sequence, const ContextManifest& manifest) = 0;
  virtual Result<void> FinishCommit(const ContextManifest& manifest) = 0;
  // Forgets the context in memory and deletes from disk what no fork of it reads. kConflict while a
  // sequence uses it.
  virtual Result<void> DeleteContext(ContextId context) = 0;

  // Between steps, often: moves pages of contexts with a ladder down where there is not enough room
  // (kvstore/demotion_plan.h), by giving batches to a thread of its own and taking their results.
  // Returns whether there is more to come. Does not wait.
  virtual bool Maintain() = 0;

  virtual Result<ContextUsage> GetContextUsage(ContextId context) const = 0;
  virtual WorkerStats Stats() const = 0;  // thread-safe
  // Every (context or sequence, layer, page) that this store holds, resident or not: for tests and
  // diagnosis.
  struct HeldPage {
    uint64_t owner = 0;  // context id, or sequence id for a private tail
    bool is_private = false;
    int32_t layer = 0;
    int64_t page = 0;
    bool sealed = false;
    bool resident = false;
  };
  virtual std::vector<HeldPage> HeldPages() const = 0;
};

}  // namespace varve
