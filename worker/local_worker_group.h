// N workers in this process: one model, one disk tier, and for each worker a KV store and a rank of
// the step. The embedded default of `varve serve`, and what tests drive.
//
// Threads: as WorkerGroup says. A thread of its own maintains the stores between steps. Calls that
// touch the stores are served in the order in which they come, so that a call from another thread
// waits for one step at most. Next: worker/step.h
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kvstore/disk_tier.h"
#include "kvstore/kv_store.h"
#include "proto/worker_group.h"
#include "worker/context_catalog.h"
#include "worker/fair_mutex.h"
#include "worker/kv_probe.h"
#include "worker/local_communicator.h"
#include "worker/model_config.h"
#include "worker/rank.h"
#include "worker/step.h"
#include "worker/ticker.h"
#include "worker/weights.h"

namespace varve {

struct LocalWorkerGroupOptions {
  std::string model_dir;
  std::string weights = "auto";  // auto: as they are stored; int8: worker/int8_weights.h
  // Calibrated tables (worker/codec_tables.h); "": kCodecTablesFile in model_dir, if there is one.
  std::string tables_file;
  bool use_tables = true;  // false: codecs that need some are not there
  int num_workers = 1;
  int num_threads = 0;   // 0: all cores of the machine
  std::string data_dir;  // "": nothing is durable, contexts live as long as the process
  uint64_t host_budget_bytes = uint64_t{1} << 30;  // KV in memory, all workers together
  uint64_t device_budget_bytes = 0;                // of a tier above it; 0: there is none
  uint64_t disk_budget_bytes = 0;                  // 0: unlimited
  int64_t max_step_tokens =
      512;  // prompt tokens of a step; one token for each sequence may come on top
  int64_t max_step_sequences = 128;  // of a step
  KvProbe* probe = nullptr;          // of the first worker; may be null
  // Share of steps and layers of requests that do not read all their context's pages, in which
  // exact attention is computed, too, to measure what they were served (worker/quality_meter.h).
  double quality_share = 0.0;
};

class LocalWorkerGroup final : public WorkerGroup {
 public:
  // Loads the model, opens the data directory and recovers its contexts. Errors: kBadModel,
  // kUnsupported (the model), kDataDirLocked, kVersionSkew, kIoError (the directory),
  // kInvalidArgument (the options).
  static Result<std::unique_ptr<LocalWorkerGroup>> Open(const LocalWorkerGroupOptions& options);
  ~LocalWorkerGroup() override;

  int num_workers() const override { return static_cast<int>(stores_.size()); }
  const ModelDescription& model() const override { return description_; }

  // Errors: kStaleEpoch (an epoch or a step that is over), kInvalidArgument (too many tokens or
  // sequences).
  Result<StepResult> Step(const StepPlan& plan) override;
  Result<void> OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) override;
  Result<void> CloseSequence(SequenceId sequence) override;

  Result<void> CreateContext(const ContextManifest& manifest) override;
  Result<void> CommitContext(SequenceId sequence,
                             const ContextManifest& manifest,
                             const ContextAppend& append) override;
  Result<ContextManifest> ForkContext(const ForkOptions& options) override;
  Result<void> UpdateContext(const ContextManifest& manifest) override;
  Result<std::unique_ptr<ContextSource>> ExportContext(ContextId context) override;
  Result<std::unique_ptr<ContextSink>> ImportContext(const ImportOptions& options) override;
  Result<void> DeleteContext(ContextId context) override;
  Result<std::vector<ContextManifest>> ListContexts() override;
  Result<std::string> ReadContextText(ContextId context) override;
  Result<std::vector<int32_t>> ReadContextTokens(ContextId context) override;
  Result<ContextUsage> GetContextUsage(ContextId context) override;
  std::vector<WorkerStats> Stats() override;

  // For benches: makes the sequence longer by tokens with made-up keys and values (normal, seeded),
  // as steps over them would, in a fraction of their time. Errors: those of a step's stores.
  Result<void> FillSequence(SequenceId sequence, int64_t num_tokens, uint64_t seed);
  // What one worker holds, for tests and diagnosis.
  std::vector<KvStore::HeldPage> HeldPages(int worker);
  const ModelConfig& config() const { return config_; }
  const CodecTableSet* codec_tables() const { return geometry_.codec_tables.get(); }  // may be null

 private:
  LocalWorkerGroup(const LocalWorkerGroupOptions& options,
                   ModelConfig config,
                   ModelWeights weights);

  // stored_hash: of the model as its files have it, whatever form the weights are held in.
  Result<void> LoadTables(uint64_t stored_hash);
  Result<void> OpenStores();
  Result<void> RecoverContexts();
  void StartRanks();
  void StartMaintenance();
  Result<void> CheckPlan(const StepPlan& plan) const;
  Result<void> CheckWork(const SequenceWork& work) const;
  // What the stores read for it by choice, together.
  std::optional<PageReads> PageReadsOf(SequenceId sequence) const;
  Result<void> CheckModel(const ContextManifest& manifest) const;
  // Whether this model, with the codec tables it has, can read the context.
  Result<void> CheckReadable(const ContextManifest& manifest) const;
  // Registers an imported context, whose first version is durable.
  Result<void> Adopt(const ContextManifest& manifest);

  const LocalWorkerGroupOptions options_;
  const ModelConfig config_;
  const ModelWeights weights_;
  ModelDescription description_;
  KvGeometry geometry_;
  std::unique_ptr<DiskTier> disk_;  // null without a data directory
  std::unique_ptr<ContextManifests> catalog_;

  FairMutex stores_mutex_;  // guards everything below
  std::vector<std::unique_ptr<KvStore>> stores_;
  std::unique_ptr<LocalGroup> group_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  Epoch epoch_;  // of the last step
  uint64_t last_step_ = 0;
  bool has_stepped_ = false;
  std::unordered_set<uint64_t> step_sequences_;  // scratch of Step
  std::unique_ptr<Ticker> maintenance_;          // last: it uses the rest
};

}  // namespace varve
