// A store that fails calls on demand.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kvstore/kv_store.h"

namespace varve {

// A store that does what the real one does until it is told to fail.
class FaultyStore final : public KvStore {
 public:
  explicit FaultyStore(std::unique_ptr<KvStore> real) : real_(std::move(real)) {}

  // Fails the given call for this sequence.
  std::optional<SequenceId> fail_begin;
  std::optional<SequenceId> fail_read;
  int32_t fail_read_layer = 0;
  bool fail_read_late = false;  // at the end of the pages rather than at their beginning
  std::optional<SequenceId> fail_end;
  int aborts = 0;

  bool Owns(SequenceId s, int64_t position) const override { return real_->Owns(s, position); }
  Result<void> OpenSequence(SequenceId s, const OpenSequenceOptions& o) override {
    return real_->OpenSequence(s, o);
  }
  Result<void> CloseSequence(SequenceId s) override { return real_->CloseSequence(s); }
  Result<void> BeginStep(SequenceId s, int64_t first, int32_t count) override {
    if (fail_begin == s) {
      return Error{ErrorCode::kBudgetExceeded, "no room (injected)"};
    }
    return real_->BeginStep(s, first, count);
  }
  void Append(SequenceId s,
              int32_t layer,
              int64_t first,
              int32_t count,
              const float* k,
              const float* v,
              size_t stride) override {
    real_->Append(s, layer, first, count, k, v, stride);
  }
  bool ObservesQueries(SequenceId s) const override { return real_->ObservesQueries(s); }
  void Observe(SequenceId s,
               int32_t layer,
               int64_t first,
               int32_t count,
               const float* q,
               size_t stride) override {
    real_->Observe(s, layer, first, count, q, stride);
  }
  std::unique_ptr<PageCursor> Read(SequenceId s,
                                   int32_t layer,
                                   int64_t first,
                                   int64_t last,
                                   const float* q,
                                   size_t q_stride) override {
    const bool fails = fail_read == s && fail_read_layer == layer;
    return std::make_unique<Cursor>(
        real_->Read(s, layer, first, last, q, q_stride), fails, fail_read_late);
  }
  std::optional<PageReads> SelectedReads(SequenceId s) const override {
    return real_->SelectedReads(s);
  }
  Result<void> EndStep(SequenceId s) override {
    if (fail_end == s) {
      return Error{ErrorCode::kIoError, "cannot write (injected)"};
    }
    return real_->EndStep(s);
  }
  void AbortStep(SequenceId s) override {
    ++aborts;
    real_->AbortStep(s);
  }
  int64_t SequenceLength(SequenceId s) const override { return real_->SequenceLength(s); }
  const SelectiveAttention* Selective(SequenceId s) const override { return real_->Selective(s); }
  SelectablePages Selectable(SequenceId s, int32_t layer) const override {
    return real_->Selectable(s, layer);
  }
  void EstimatePages(SequenceId s,
                     int32_t layer,
                     const StepQueries& queries,
                     AttendScratch& scratch,
                     ThreadTeam& team,
                     float* lse) override {
    real_->EstimatePages(s, layer, queries, scratch, team, lse);
  }
  std::unique_ptr<PageCursor> ReadPages(SequenceId s,
                                        int32_t layer,
                                        std::vector<int64_t> pages) override {
    return real_->ReadPages(s, layer, std::move(pages));
  }
  void NoteReads(SequenceId s, const PageReads& reads) override { real_->NoteReads(s, reads); }
  Result<void> CreateContext(const ContextManifest& m) override { return real_->CreateContext(m); }
  Result<void> ForkContext(ContextId source, const ContextManifest& m) override {
    return real_->ForkContext(source, m);
  }
  Result<void> UpdateContext(const ContextManifest& m) override { return real_->UpdateContext(m); }
  Result<void> FinishRecovery() override { return real_->FinishRecovery(); }
  Result<void> RecoverContext(const ContextManifest& m) override {
    return real_->RecoverContext(m);
  }
  Result<void> PrepareCommit(SequenceId s, const ContextManifest& m) override {
    return real_->PrepareCommit(s, m);
  }
  Result<void> FinishCommit(const ContextManifest& m) override { return real_->FinishCommit(m); }
  Result<void> DeleteContext(ContextId c) override { return real_->DeleteContext(c); }
  Result<ContextUsage> GetContextUsage(ContextId c) const override {
    return real_->GetContextUsage(c);
  }
  bool ObservesMass(SequenceId s) const override { return real_->ObservesMass(s); }
  void ObserveMass(SequenceId s,
                   int32_t layer,
                   std::span<const int64_t> pages,
                   std::span<const float> shares) override {
    real_->ObserveMass(s, layer, pages, shares);
  }
  bool Maintain() override { return real_->Maintain(); }
  WorkerStats Stats() const override { return real_->Stats(); }
  std::vector<HeldPage> HeldPages() const override { return real_->HeldPages(); }

 private:
  class Cursor final : public PageCursor {
   public:
    Cursor(std::unique_ptr<PageCursor> real, bool fails, bool late)
        : real_(std::move(real)), fails_(fails), late_(late) {}
    Result<std::span<const KvView>> Next() override {
      const Error corrupt{ErrorCode::kPageCorrupt, "a checksum did not match (injected)"};
      if (fails_ && !late_) {
        return corrupt;
      }
      Result<std::span<const KvView>> views = real_->Next();
      if (fails_ && views && views->empty()) {
        return corrupt;
      }
      return views;
    }
    std::span<const int64_t> pages() const override { return real_->pages(); }

   private:
    std::unique_ptr<PageCursor> real_;
    bool fails_;
    bool late_;
  };

  std::unique_ptr<KvStore> real_;
};

}  // namespace varve
