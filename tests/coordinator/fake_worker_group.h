// Workers without a model: tokens follow a rule, everything that the coordinator asks is recorded
// and checked, and any call can be told to fail, to wait or to take its time.
//
// The rule: a sequence repeats its private prompt, token by token, and then ends with kEos. A
// prompt that begins with '*' is repeated for ever. With temperature > 0 the token at position p is
// a lower-case letter that depends on (seed, p). The rank-i top logprob is token+i with -(i+1).
//
// It aborts (VARVE_CHECK) when the coordinator breaks the contract of WorkerGroup: a position that
// is not the sequence's length, a sequence opened twice, a commit that is not at the sequence's
// end.
//
// Threads: as WorkerGroup says.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "proto/worker_group.h"

namespace varve {

inline constexpr int32_t kFakeBos = 256;
inline constexpr int32_t kFakeEos = 257;
inline constexpr int32_t kFakeVocab = 258;

class FakeWorkerGroup final : public WorkerGroup {
 public:
  struct StoredContext {
    ContextManifest manifest;
    bool committed = false;
    std::vector<int32_t> tokens;
    std::string text;
    std::vector<int64_t> commits;  // num_tokens of each
  };

  FakeWorkerGroup();

  // --- What tests set, at any time ---
  void FailNextStep(Error error);
  // The next step of a sequence whose work holds `token` reports `error` for this sequence.
  void FailSequenceAt(int32_t token, Error error);
  void FailOpen(std::optional<Error> error);
  void FailCommit(std::optional<Error> error);
  void FailCreate(std::optional<Error> error);
  void FailDelete(std::optional<Error> error);
  void FailList(std::optional<Error> error);
  // Steps wait while held. A held step begins when it is let go; Release lets `num_steps` through.
  void HoldSteps(bool held);
  void ReleaseSteps(int num_steps);
  void HoldList(bool held);
  // Steps of sequences behind a context read so many pages by choice, each.
  void ReadPagesByChoice(PageReads in_each_step);
  // What the meter sees in each of those steps.
  void SampleQuality(std::vector<QualitySample> in_each_step);
  // Time that a step seems to take, reported to the clock by the test (see FakeClock): called in
  // every step.
  void OnStep(std::function<void(const StepPlan&)> hook);
  // A context that exists when the coordinator starts.
  void AddContext(StoredContext context);

  // --- What tests look at ---
  std::vector<StepPlan> plans() const;
  size_t num_open() const;
  size_t num_closed() const;
  std::optional<StoredContext> Stored(const std::string& name) const;
  std::vector<OpenSequenceOptions> opened() const;
  // Waits until `condition` holds (checked after every call to the fake). False after a minute.
  bool WaitUntil(const std::function<bool(const FakeWorkerGroup&)>& condition) const;

  // --- WorkerGroup ---
  int num_workers() const override { return 2; }
  const ModelDescription& model() const override { return model_; }
  Result<StepResult> Step(const StepPlan& plan) override;
  Result<void> OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) override;
  Result<void> CloseSequence(SequenceId sequence) override;
  Result<void> CreateContext(const ContextManifest& manifest) override;
  Result<void> CommitContext(SequenceId sequence,
                             const ContextManifest& manifest,
                             const ContextAppend& append) override;
  Result<void> DeleteContext(ContextId context) override;
  Result<std::vector<ContextManifest>> ListContexts() override;
  Result<std::string> ReadContextText(ContextId context) override;
  Result<std::vector<int32_t>> ReadContextTokens(ContextId context) override;
  Result<ContextUsage> GetContextUsage(ContextId context) override;
  std::vector<WorkerStats> Stats() override;

 private:
  struct Sequence {
    OpenSequenceOptions options;
    int64_t length = 0;
    std::vector<int32_t> tokens;  // private ones, or those of the ingest since it was opened
    int64_t prompt_tokens = -1;   // set by the first sample
    PageReads page_reads;
  };

  TokenLogprob Draw(Sequence* sequence, const SequenceWork& work) const;
  // Recursive: conditions look at the fake while it is locked.
  mutable std::recursive_mutex mutex_;
  mutable std::condition_variable_any changed_;
  ModelDescription model_;
  std::map<uint64_t, Sequence> sequences_;
  std::map<uint64_t, StoredContext> contexts_;
  std::vector<StepPlan> plans_;
  std::vector<OpenSequenceOptions> opened_;
  size_t num_closed_ = 0;
  std::optional<PageReads> reads_of_step_;
  std::vector<QualitySample> quality_of_step_;
  bool held_ = false;
  bool list_held_ = false;
  int released_ = 0;
  std::optional<Error> step_error_, open_error_, commit_error_, create_error_, delete_error_,
      list_error_;
  std::map<int32_t, Error> sequence_errors_;
  std::function<void(const StepPlan&)> on_step_;
};

}  // namespace varve
