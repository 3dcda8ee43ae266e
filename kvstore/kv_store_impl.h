// The store behind KvStore::Open. kv_store.cc runs the steps, kv_store_queries.cc watches the
// queries, kv_store_selection.cc has requests choose pages, kv_store_sketches.cc tells selective
// attention what it may choose from, kv_store_ladder.cc moves pages down, kv_store_pages.cc makes
// and seals pages and lets go of them, kv_store_contexts.cc keeps the contexts, kv_store_owners.cc
// knows which of them reads what, kv_store_report.cc answers questions about all of it.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "kvstore/demoter.h"
#include "kvstore/demotion_plan.h"
#include "kvstore/kv_store.h"
#include "kvstore/memory_tier.h"
#include "kvstore/page_chooser.h"
#include "kvstore/page_cursor.h"
#include "kvstore/sealer.h"
#include "kvstore/store_state.h"

namespace varve {

class KvStoreImpl final : public KvStore {
 public:
  KvStoreImpl(const KvStoreOptions& options, DiskTier* disk);

  bool Owns(SequenceId sequence, int64_t position) const override;
  Result<void> OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) override;
  Result<void> CloseSequence(SequenceId sequence) override;
  Result<void> BeginStep(SequenceId sequence, int64_t first_position, int32_t num_tokens) override;
  void Append(SequenceId sequence,
              int32_t layer,
              int64_t first_position,
              int32_t num_tokens,
              const float* k,
              const float* v,
              size_t token_stride) override;
  bool ObservesQueries(SequenceId sequence) const override;
  void Observe(SequenceId sequence,
               int32_t layer,
               int64_t first_position,
               int32_t num_tokens,
               const float* q,
               size_t token_stride) override;
  std::unique_ptr<PageCursor> Read(SequenceId sequence,
                                   int32_t layer,
                                   int64_t first_query,
                                   int64_t last_query,
                                   const float* q,
                                   size_t q_stride) override;
  const SelectiveAttention* Selective(SequenceId sequence) const override;
  SelectablePages Selectable(SequenceId sequence, int32_t layer) const override;
  void EstimatePages(SequenceId sequence,
                     int32_t layer,
                     const StepQueries& queries,
                     AttendScratch& scratch,
                     ThreadTeam& team,
                     float* lse) override;
  std::unique_ptr<PageCursor> ReadPages(SequenceId sequence,
                                        int32_t layer,
                                        std::vector<int64_t> pages) override;
  void NoteReads(SequenceId sequence, const PageReads& reads) override;
  std::optional<PageReads> SelectedReads(SequenceId sequence) const override;
  bool ObservesMass(SequenceId sequence) const override;
  void ObserveMass(SequenceId sequence,
                   int32_t layer,
                   std::span<const int64_t> pages,
                   std::span<const float> shares) override;
  Result<void> EndStep(SequenceId sequence) override;
  void AbortStep(SequenceId sequence) override;
  int64_t SequenceLength(SequenceId sequence) const override;

  Result<void> CreateContext(const ContextManifest& manifest) override;
  Result<void> ForkContext(ContextId source, const ContextManifest& manifest) override;
  Result<void> UpdateContext(const ContextManifest& manifest) override;
  Result<void> RecoverContext(const ContextManifest& manifest) override;
  Result<void> FinishRecovery() override;
  Result<void> PrepareCommit(SequenceId sequence, const ContextManifest& manifest) override;
  Result<void> FinishCommit(const ContextManifest& manifest) override;
  Result<void> DeleteContext(ContextId context) override;
  bool Maintain() override;

  Result<ContextUsage> GetContextUsage(ContextId context) const override;
  WorkerStats Stats() const override;
  std::vector<HeldPage> HeldPages() const override;

 private:
  int32_t num_layers() const { return options_.geometry.num_layers(); }
  int64_t window(int32_t layer) const {
    return options_.geometry.layer_windows[static_cast<size_t>(layer)];
  }
  PageCursorDeps cursor_deps() {
    return {&memory_, device_ != nullptr, disk_, &sealer_, &counters_};
  }
  Result<SequenceState*> FindSequence(SequenceId sequence);
  SequenceState& OpenedSequence(SequenceId sequence);
  Result<std::shared_ptr<ContextState>> FindContext(ContextId context) const;

  // Steps (kv_store.cc).
  Result<void> OpenPrivate(SequenceState& state, const OpenSequenceOptions& options);
  // Whether a request can read the context's first base_tokens tokens.
  Result<void> CheckSnapshot(const ContextState& context, int64_t base_tokens) const;
  Result<void> OpenIngest(SequenceState& state, const OpenSequenceOptions& options);
  Result<void> LoadTails(SequenceState& state);
  Result<void> EnsureWorkspace(const ResolvedPolicy& policy);
  Result<void> TryOpenSequence(SequenceId sequence, const OpenSequenceOptions& options);
  Result<void> TryBeginStep(SequenceState& state, int64_t end_page);
  Result<void> ReserveRuns(SequenceState& state, int64_t end_page, uint64_t keep_free);
  UnsealedRun NewRun(const SequenceState& state, int64_t page, MemoryCharge charge) const;
  int32_t NumObservedQueries(const SequenceState& state) const;
  ObservedQueries QueriesOf(const SequenceState& state, int64_t page) const;
  size_t QueryFloats() const {
    return static_cast<size_t>(options_.geometry.num_qo_heads) *
           static_cast<size_t>(options_.geometry.head_dim);
  }
  uint64_t RunBytes(const SequenceState& state, int64_t page) const;
  PageSegment OwnSegment(const SequenceState& state,
                         int32_t layer,
                         PageSegment::Source source) const;
  void AddBaseSegments(const SequenceState& state,
                       int64_t low_position,
                       std::vector<PageSegment>& segments) const;
  PageSegment CommittedSegment(const ContextState& context, PageSegment::Source source) const;

  // Choosing pages (kv_store_selection.cc).
  //
  // Whether the sequence is a request that chooses pages of its context.
  static bool Selects(const SequenceState& state) {
    return state.context != nullptr && !state.is_ingest && !state.reads_every_page &&
           !state.selective && state.context->policy.selects_pages;
  }
  // Room for the centroids that an ingest adds when the pages below end_page are sealed.
  Result<void> ReserveKeyIndexes(const SequenceState& state, int64_t end_page, uint64_t keep_free);
  // Reads what is not there of the centroids of pages that a request may read.
  Result<void> FillKeyIndexes(const SequenceState& state, uint64_t keep_free);
  Result<void> FillKeyIndex(const PageSegment& sealed,
                            int32_t layer,
                            uint64_t keep_free,
                            KeyIndex& index);
  // Of the page that was sealed last.
  void AddToKeyIndex(const SequenceState& state, int32_t layer, int64_t page);
  // Has the step read those sealed pages of the context that its queries choose, and counts them.
  void SelectPages(SequenceState& state,
                   int32_t layer,
                   const StepQueries& queries,
                   std::span<PageSegment> segments);

  // Selective attention (kv_store_sketches.cc).
  //
  // The sealed pages of the context that a request reads, of a global layer.
  PageSegment BaseSealed(const SequenceState& state) const;
  // Which of them may be left out: [first, end) of the owned ones, counted from the first on.
  struct PageRange {
    int64_t first = 0;
    int64_t end = 0;
  };
  PageRange SelectableRange(const SequenceState& state, int32_t layer) const;
  static void LeaveOut(const PageRange& selectable, std::span<PageSegment> segments);
  // Reads what is not there of the sketches of pages that a request may leave out.
  Result<void> FillKeySketches(SequenceState& state, uint64_t keep_free);
  Result<void> FillKeySketch(const PageSegment& sealed,
                             int32_t layer,
                             uint64_t keep_free,
                             KeySketch& sketch);

  // The ladder (kv_store_ladder.cc).
  struct PlannedDemotion {
    uint64_t owner = 0;
    Demotion demotion;
  };
  // The place of an owner's page in its ladder.
  static int64_t LadderIndex(const PageOwner& owner, const PageGrid& grid, int64_t page) {
    return grid.CountOwned(owner.first_page, page);
  }
  static int64_t PageAt(const PageOwner& owner, const PageGrid& grid, int64_t index) {
    return grid.OwnedPage(grid.CountOwned(0, owner.first_page) + index);
  }
  Result<void> ReserveDemoter(const ResolvedPolicy& policy);
  Result<void> FillLadder(PageOwner& owner);
  static void NoteUse(const ContextState& context);
  Result<void> ReserveLadder(const SequenceState& state, int64_t end_page, uint64_t keep_free);
  void AddToLadder(const SequenceState& state, int32_t layer, int64_t page, uint64_t record_bytes);
  LadderContext LadderOf(const PageOwner& owner, int64_t now_us) const;
  void PlanLadder(int64_t now_us);
  bool StartDemotions(int64_t now_us);
  void PauseDemotions(int64_t now_us);
  Result<DemotionItem> ItemOf(const PageOwner& owner, const Demotion& demotion);
  void ApplyDemotions(DemotionBatch batch);
  // False: its write failed.
  bool ApplyDemotion(PageOwner& owner, DemotionItem& item);
  void ReplaceInKeyIndexes(const PageOwner& owner, const DemotionItem& item);
  void PublishRungs();
  // Calls again what had no room because of a batch in flight, once that has landed.
  template <typename Call>
  Result<void> WithoutDemotions(const Call& call) {
    Result<void> result = call();
    if (!result && result.error().code == ErrorCode::kBudgetExceeded && demoter_.is_busy()) {
      ApplyDemotions(demoter_.Take(false));
      result = call();
    }
    return result;
  }

  // Usage (kv_store_report.cc).
  void Count(const PageSegment& segment,
             const PageIdentity& identity,
             uint64_t record_bytes,
             int64_t times,
             ContextUsage& usage,
             Rung rung = Rung::kHot) const;
  // The owner's pages of a layer from `first` on and below the segment's end.
  Result<void> CountSealed(const PageOwner& owner,
                           const PageSegment& sealed,
                           uint16_t layer,
                           int64_t first,
                           ContextUsage& usage) const;
  // The pages that a context reads under an owner's id.
  Result<void> CountRange(const ContextState& context,
                          const OwnedRange& range,
                          int32_t layer,
                          ContextUsage& usage) const;
  Result<void> CountPages(const ContextState& context,
                          const OwnedRange& pages,
                          int32_t layer,
                          ContextUsage& usage) const;
  // What of the context is in a tier, and how much of that is counted as another context's.
  void CountResident(const ContextState& context,
                     const MemoryTier& tier,
                     uint64_t& all,
                     uint64_t& shared) const;

  // Sealing and letting go (kv_store_pages.cc).
  Result<void> SealOld(SequenceState& state);
  Result<void> SealRun(SequenceState& state, int32_t layer, int64_t page, const UnsealedRun& run);
  Result<void> ErasePages(PageKey::Space space,
                          uint64_t owner,
                          int32_t layer,
                          std::span<const int64_t> pages);
  Result<void> ReleaseWindowPages(SequenceState& state);

  // Contexts (kv_store_contexts.cc).
  int64_t NumSealedPages(const SequenceState& state) const;  // own pages
  Result<std::shared_ptr<ContextState>> NewContext(const ContextManifest& manifest);
  Result<void> CloseIngest(SequenceState& state);
  Result<void> WriteTail(const SequenceState& state,
                         int32_t layer,
                         int64_t page,
                         const UnsealedRun& run,
                         uint64_t version);

  // Who holds what (kv_store_owners.cc).
  static bool IsLive(const PageOwner& owner);  // its context is registered
  // The pages that a context reads under this owner's id.
  static OwnedRange RangeOf(const ContextState& context, const PageOwner& owner);
  // The owners that a context reads from, its own the last.
  static std::vector<std::shared_ptr<PageOwner>> OwnersOf(const ContextState& context);
  // All pages below `end_page` that are stored under the owner's id.
  PageSegment SealedOf(const PageOwner& owner, int64_t end_page) const;
  std::shared_ptr<PageOwner> OwnerOf(ContextId id, int64_t first_page);
  // Registers it as a reader of what its manifest names.
  void AddContext(std::shared_ptr<ContextState> context);
  void HoldPages(const ContextState& context, const OwnedRange& range);
  int64_t NumSealedPages(const PageOwner& owner, const PageGrid& grid) const;
  // Lets go of what no other context reads.
  Result<void> RemoveContext(ContextState& context);
  void ForgetUnreadPages(PageOwner& owner, const PageGrid& grid);
  Result<void> ReleaseUnneeded(const ContextState& context);
  Result<void> ReleaseUnneeded(PageOwner& owner);
  Result<void> ReleaseWindowPages(PageOwner& owner);
  // Whether the committed state, a snapshot of it or its ingest may read the owner's page.
  bool Reaches(const ContextState& context,
               const PageOwner& owner,
               int32_t layer,
               int64_t page) const;
  // The one context in whose usage the bytes of a page, or of this context's tail, are its own.
  const ContextState* CountedAt(const PageOwner& owner, int32_t layer, int64_t page) const;
  static const ContextState* TailCountedAt(const ContextState& context);

  const KvStoreOptions options_;
  DiskTier* const disk_;
  MemoryTier host_;                     // before everything that holds a charge
  std::unique_ptr<MemoryTier> device_;  // null: the host tier has what attention works with, too
  MemoryTier& memory_;                  // the higher of the two
  Sealer sealer_;
  PageChooser chooser_;
  StoreCounters counters_;
  MemoryCharge workspace_;
  std::unordered_map<ContextId, std::shared_ptr<ContextState>> contexts_;
  std::unordered_map<uint64_t, std::shared_ptr<PageOwner>> owners_;  // by context id
  std::unordered_map<SequenceId, SequenceState> sequences_;

  struct LadderCounters {  // any thread may read
    std::array<std::atomic<int64_t>, kNumRungs> pages{};
    std::array<std::atomic<uint64_t>, kNumRungs> bytes{};
    std::array<std::atomic<uint64_t>, kNumRungs> demotions{};
    std::array<std::atomic<uint64_t>, kNumRungs> demoted_bytes{};
    std::array<std::atomic<uint64_t>, kDemotionFailureNames.size()> failures{};
  };
  LadderCounters ladder_counters_;
  std::vector<PlannedDemotion> plan_;  // the next at the back
  bool plan_is_due_ = false;           // what is to be ranked has changed
  int64_t next_batch_us_ = 0;
  int64_t next_pressure_us_ = 0;
  MemoryCharge demoter_workspace_;
  Demoter demoter_;  // last: its thread ends first
};

}  // namespace varve
