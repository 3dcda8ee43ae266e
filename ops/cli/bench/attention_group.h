// Workers that attend and do nothing else: for each a store over a common disk tier and a rank of
// the step, as in LocalWorkerGroup, but keys, values and queries are given and there is no model.
// What a step of a request does in one layer is all there: the new token's page, attention over the
// own pages of all tiers, exact or selective, exchange of the states, merge.
//
// There is one context, durable, that can only grow.
//
// Threads: one caller at a time. Next: worker/attention.h
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvstore/disk_tier.h"
#include "kvstore/kv_store.h"
#include "worker/local_communicator.h"
#include "worker/model_config.h"
#include "worker/rank.h"
#include "worker/weights.h"

namespace varve::cli {

struct AttentionGroupOptions {
  ModelConfig config;  // of which the shape of attention counts
  KvPolicy policy;     // of the context
  // By which the context is told from others of the directory.
  std::string context_name;
  std::string data_dir;
  int num_workers = 1;
  int num_threads = 1;
  uint64_t host_budget_bytes = 0;    // all workers together
  uint64_t device_budget_bytes = 0;  // 0: there is none
};

class AttentionGroup {
 public:
  // The directory's context if it has one of that name, else an empty one. Errors: those of
  // DiskTier and KvStore; kConflict (it keeps its KV otherwise).
  static Result<std::unique_ptr<AttentionGroup>> Open(AttentionGroupOptions options);
  ~AttentionGroup();

  int64_t num_tokens() const { return manifest_.num_tokens; }  // committed
  // Of pages and tails on disk.
  Result<uint64_t> DiskBytes() const;

  // Makes the context longer by chunks of `chunk_tokens`, until it has `num_tokens`, and durable
  // every now and then. make(first, k, v) fills in the chunk's keys and values, each [chunk_tokens,
  // num_kv_heads, head_dim]. REQUIRES: num_tokens() and `num_tokens` are multiples of chunk_tokens.
  Result<void> Fill(int64_t num_tokens,
                    int64_t chunk_tokens,
                    const std::function<void(int64_t first, float* k, float* v)>& make,
                    const std::function<void(int64_t tokens)>& on_commit);

  // A request on the context's first base_tokens tokens.
  Result<SequenceId> OpenRequest(int64_t base_tokens, std::optional<SelectiveAttention> selective);
  Result<void> CloseRequest(SequenceId sequence);
  // One decode step of it. q: [num_qo_heads, head_dim]; k, v: the new token's, [num_kv_heads,
  // head_dim]. Returns the attention's output, [num_qo_heads, head_dim].
  Result<std::vector<float>> Step(SequenceId sequence,
                                  const std::vector<float>& q,
                                  const std::vector<float>& k,
                                  const std::vector<float>& v);
  // What it read by choice since it was opened, and stated; nothing if it reads every page.
  std::optional<PageReads> ReadsOf(SequenceId sequence) const;
  // Of all workers together.
  WorkerStats Stats() const;

 private:
  struct StepWork;

  explicit AttentionGroup(AttentionGroupOptions options);
  Result<void> OpenContext();
  void StartRanks();
  Result<void> FillChunk(SequenceId ingest, int32_t chunk_tokens, const float* k, const float* v);
  Result<void> Commit(SequenceId ingest, int64_t num_tokens);
  Result<void> OpenOnAll(SequenceId sequence, const OpenSequenceOptions& options);
  static Task Attend(Rank& rank, const StepWork& work, std::vector<float>& output);

  const AttentionGroupOptions options_;
  const ModelWeights weights_;  // none: a rank wants some
  std::unique_ptr<DiskTier> disk_;
  std::vector<std::unique_ptr<KvStore>> stores_;
  std::unique_ptr<LocalGroup> group_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  ContextManifest manifest_;
  uint64_t last_sequence_ = 0;
  uint64_t last_step_ = 0;
};

}  // namespace varve::cli
