// The vocabulary of the store's tests: made-up keys and values whose every number tells where it
// belongs, stores that step together, and what a reader sees of them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kvstore/disk_tier.h"
#include "kvstore/kv_store.h"

namespace varve {

KvGeometry MakeGeometry(int32_t num_kv_heads, int32_t head_dim, std::vector<int64_t> layer_windows);

// The number at one place; exact in bf16. `salt` tells sequences apart.
float KeyAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel);
float ValueAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel);

// How far these may be off in a codec, int8, int4 and int2 among them: a step of the scale.
float CodecSlack(CodecId codec);

// The same of queries, where a geometry has heads for them.
float QueryAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel);

// One token as a reader sees it.
struct SeenToken {
  int64_t position = 0;
  int rank = 0;
  CodecId codec{};
  std::vector<float> k;  // [num_kv_heads * head_dim]
  std::vector<float> v;  // [num_kv_heads * head_dim]
};

// The tokens of a store's views in the order of the cursor, decoded.
Result<std::vector<SeenToken>> ReadStore(KvStore& store,
                                         const KvGeometry& geometry,
                                         SequenceId sequence,
                                         int32_t layer,
                                         int64_t first_query,
                                         int64_t last_query,
                                         int rank = 0);

// N stores over one disk tier (or none), stepping together as the workers of one process do.
class StoreGroup {
 public:
  StoreGroup(const KvGeometry& geometry,
             int num_workers,
             uint64_t host_budget_bytes,
             DiskTier* disk,
             uint64_t device_budget_bytes = 0);

  KvStore& store(int rank) { return *stores_[static_cast<size_t>(rank)]; }
  int num_workers() const { return static_cast<int>(stores_.size()); }
  const KvGeometry& geometry() const { return geometry_; }

  Result<void> OpenSequence(SequenceId sequence, const OpenSequenceOptions& options);
  Result<void> CloseSequence(SequenceId sequence);
  // One step: begin on all, append every layer, end on all. Tokens are KeyAt(salt, ...). `within`
  // runs when everything is appended, where a worker attends.
  Result<void> Step(SequenceId sequence,
                    uint64_t salt,
                    int32_t num_tokens,
                    const std::function<void()>& within = {});
  // Queries of later steps, by layer, position and channel; without it they are QueryAt(salt, ...).
  void SetQuery(std::function<float(int32_t, int64_t, int32_t)> query) {
    query_ = std::move(query);
  }
  Result<void> CreateContext(const ContextManifest& manifest);
  Result<void> RecoverContext(const ContextManifest& manifest);
  Result<void> FinishRecovery();
  // A fork of what `source` has committed, durable if there is a disk.
  Result<void> ForkContext(const ContextManifest& source, uint64_t fork);
  Result<void> Prepare(SequenceId sequence, const ContextManifest& manifest);
  Result<void> Finish(const ContextManifest& manifest);
  // Prepare on all, the disk's commit, finish on all.
  Result<void> Commit(SequenceId sequence, const ContextManifest& manifest);
  Result<void> DeleteContext(ContextId context);

  int64_t Length(SequenceId sequence) { return store(0).SequenceLength(sequence); }
  // What all stores see of one layer, by position. Fails the test if two see the same position.
  Result<std::vector<SeenToken>> Read(SequenceId sequence,
                                      int32_t layer,
                                      int64_t first_query,
                                      int64_t last_query);
  // Maintains all stores until nothing is left to do, for pages of contexts with a ladder.
  void SettleLadders();
  // Asserts that no store is over its budget.
  void ExpectWithinBudget();

 private:
  void ShowQueries(SequenceId sequence, uint64_t salt, int32_t layer, int64_t first, int32_t count);

  KvGeometry geometry_;
  DiskTier* disk_;
  std::function<float(int32_t, int64_t, int32_t)> query_;
  std::vector<std::unique_ptr<KvStore>> stores_;
};

ContextManifest MakeManifest(uint64_t id, const KvPolicy& policy);
// What a commit beside the tokens stores: token ids 0, 1, 2, ... and as many letters.
ContextAppend MakeAppend(int64_t first_token, int64_t end_token);

}  // namespace varve
