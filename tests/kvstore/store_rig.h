// What most store tests set up: a disk tier that can fail, stores over it, and small contexts to
// ask for.
#pragma once

#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "kvstore/disk_tier_env.h"
#include "proto/base/units.h"
#include "tests/kvstore/fault_env.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {

// Lossy, pages of 16 tokens, 4 sinks, a recent window of 16.
inline KvPolicy SmallPolicy(std::string codec = "int8") {
  KvPolicy policy;
  policy.codec = std::move(codec);
  policy.page_tokens = 16;
  policy.sink_tokens = 4;
  policy.recent_window_tokens = 16;
  return policy;
}

inline OpenSequenceOptions Private(const KvPolicy& policy) {
  OpenSequenceOptions options;
  options.policy = policy;
  return options;
}

inline OpenSequenceOptions Behind(uint64_t context, int64_t base_tokens) {
  OpenSequenceOptions options = Private(SmallPolicy());
  options.base = ContextId{context};
  options.base_tokens = base_tokens;
  return options;
}

inline OpenSequenceOptions IngestOf(uint64_t context) {
  OpenSequenceOptions options;
  options.context = ContextId{context};
  return options;
}

inline ContextManifest Version(uint64_t id,
                               uint64_t version,
                               int64_t num_tokens,
                               const KvPolicy& policy = SmallPolicy()) {
  ContextManifest manifest = MakeManifest(id, policy);
  manifest.version = version;
  manifest.num_tokens = num_tokens;
  manifest.text_bytes = static_cast<uint64_t>(num_tokens);
  return manifest;
}

// Every position in [first, end) is seen once, with its own numbers; int8 may be off by a step of
// its scale.
inline void ExpectTokens(const Result<std::vector<SeenToken>>& read,
                         uint64_t salt,
                         int32_t layer,
                         int64_t first,
                         int64_t end) {
  ASSERT_OK(read);
  ASSERT_EQ(static_cast<int64_t>(read->size()), end - first);
  for (size_t i = 0; i < read->size(); ++i) {
    const SeenToken& token = (*read)[i];
    const int64_t position = first + static_cast<int64_t>(i);
    ASSERT_EQ(token.position, position);
    const float slack = token.codec == CodecId::kInt8 ? 2.0F / 127 : 0;
    for (size_t c = 0; c < token.k.size(); ++c) {
      ASSERT_NEAR(token.k[c], KeyAt(salt, layer, position, static_cast<int32_t>(c)), slack)
          << position;
      ASSERT_NEAR(token.v[c], ValueAt(salt, layer, position, static_cast<int32_t>(c)), slack)
          << position;
    }
  }
}

// Repeats a call that failed on a full disk: RocksDB looks for space every 5 seconds by itself.
template <typename Call>
Result<void> UntilSpaceIsBack(const Call& call) {
  Result<void> result = call();
  for (int tries = 0; !result && result.error().code == ErrorCode::kIoError && tries < 300;
       ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    result = call();
  }
  return result;
}

class StoreRig : public ::testing::Test {
 protected:
  void OpenDisk() {
    group_.reset();
    disk_.reset();
    DiskTierOptions options;
    options.directory = dir_.path() + "/data";
    options.budget_bytes = disk_budget_;
    options.memory_bytes = 8 * kMiB;
    auto disk = OpenDiskTier(options, MakeEnv(files_));
    ASSERT_OK(disk);
    disk_ = std::move(disk).value();
  }
  // Stores over the disk tier if there is one, with all its contexts.
  void OpenStores(int num_workers = 1) {
    group_ = std::make_unique<StoreGroup>(
        geometry_, num_workers, host_budget_, disk_.get(), device_budget_);
    if (disk_ != nullptr) {
      const auto manifests = disk_->ListManifests();
      ASSERT_OK(manifests);
      for (const ContextManifest& manifest : *manifests) {
        ASSERT_OK(group_->RecoverContext(manifest));
      }
      ASSERT_OK(group_->FinishRecovery());
    }
  }
  // Opens an ingest of a new context, appends and commits as version 1.
  void Ingest(uint64_t id,
              SequenceId sequence,
              int64_t num_tokens,
              const KvPolicy& policy = SmallPolicy()) {
    ASSERT_OK(group_->CreateContext(MakeManifest(id, policy)));
    ASSERT_OK(group_->OpenSequence(sequence, IngestOf(id)));
    Append(sequence, id, num_tokens);
    ASSERT_OK(group_->Commit(sequence, Version(id, 1, num_tokens, policy)));
  }
  void Append(SequenceId sequence, uint64_t salt, int64_t num_tokens) {
    while (num_tokens > 0) {
      const auto tokens = static_cast<int32_t>(std::min<int64_t>(num_tokens, 50));
      ASSERT_OK(group_->Step(sequence, salt, tokens));
      num_tokens -= tokens;
      group_->ExpectWithinBudget();
    }
  }
  Result<std::vector<SeenToken>> ReadAll(SequenceId sequence, int32_t layer) {
    const int64_t last = group_->Length(sequence) - 1;
    return group_->Read(sequence, layer, last, last);
  }

  TempDir dir_;
  std::shared_ptr<FaultFileSystem> files_ = std::make_shared<FaultFileSystem>();
  uint64_t disk_budget_ = 0;
  uint64_t host_budget_ = 0;
  uint64_t device_budget_ = 0;
  KvGeometry geometry_ = MakeGeometry(2, 8, {0, 0});
  std::unique_ptr<DiskTier> disk_;
  std::unique_ptr<StoreGroup> group_;
};

}  // namespace varve
