// Goal: whatever the order of operations, all workers together show every visible position of a
// sequence exactly once, in page order, with the numbers and in the codec that a simple model
// expects; nobody holds a foreign page; no budget is exceeded. Method: seeded random operations on
// stores over a real disk tier and on the model, with reopening under another number of workers.
#include <algorithm>
#include <map>
#include <set>

#include "kernels/codec/codec.h"
#include "kvstore/page_grid.h"
#include "proto/base/rng.h"
#include "proto/base/units.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {
namespace {

struct ModelContext {
  KvPolicy policy;
  ContextManifest committed;
  std::optional<SequenceId> ingest;
  int num_requests = 0;
};

struct ModelSequence {
  KvPolicy policy;
  bool is_ingest = false;
  uint64_t context = 0;  // 0: none
  int64_t base_tokens = 0;
  int64_t base_length = 0;
  int64_t length = 0;  // after the last complete step
};

class Model {
 public:
  Model(uint64_t seed, bool with_disk) : rng_(seed), with_disk_(with_disk) { Reopen(); }

  void RunOperation() {
    switch (rng_.Below(16)) {
      case 0:
        return CreateContext();
      case 1:
        return OpenIngest();
      case 2:
      case 3:
        return OpenRequest();
      case 4:
        return CloseSomething();
      case 5:
      case 6:
        return Commit();
      case 7:
        return rng_.Below(4) == 0 ? DeleteContext() : ReadBetweenSteps();
      case 8:
        return rng_.Below(3) == 0 && with_disk_ ? Reopen() : ReadBetweenSteps();
      case 9:
        return Maintain();
      default:
        return Step();
    }
  }

  void CheckInvariants() {
    group_->ExpectWithinBudget();
    std::set<std::tuple<uint64_t, bool, int32_t, int64_t>> all;
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      int64_t num_sealed = 0;
      for (const KvStore::HeldPage& held : group_->store(rank).HeldPages()) {
        num_sealed += held.sealed ? 1 : 0;
        EXPECT_TRUE(all.emplace(held.owner, held.is_private, held.layer, held.page).second ||
                    !held.sealed)
            << "page " << held.page << " of " << held.owner << " is held twice";
        const uint64_t grid_owner = held.is_private && sequences_[held.owner].context != 0
                                        ? sequences_[held.owner].context
                                        : held.owner;
        KvPolicy policy;
        policy.page_tokens = kPageTokens;
        EXPECT_TRUE(PageGrid(policy, {rank, group_->num_workers()}, grid_owner).Owns(held.page));
      }
      EXPECT_EQ(group_->store(rank).Stats().num_pages, num_sealed);
    }
  }

 private:
  static constexpr int32_t kPageTokens = 8;

  KvPolicy RandomPolicy() {
    KvPolicy policy;
    policy.codec = rng_.Below(2) == 0 ? "int8" : "bf16";
    policy.exact_codec = rng_.Below(4) == 0 ? "f32" : "bf16";
    policy.page_tokens = kPageTokens;
    policy.sink_tokens = static_cast<int32_t>(rng_.Below(12));
    policy.recent_window_tokens = static_cast<int32_t>(rng_.Below(20));
    if (rng_.Below(2) == 0) {
      policy.warm_codec = policy.codec == "bf16" && rng_.Below(2) == 0 ? "int8" : "";
      policy.cold_codec = rng_.Below(2) == 0 ? "int4" : "int2";
    }
    if (rng_.Below(4) == 0) {
      policy.tokens = "clusterkv";  // nothing is lost, whatever is held beside the pages
      policy.keep = 0.5;
    }
    return policy;
  }

  void Reopen() {
    group_.reset();
    tier_.reset();
    sequences_.clear();
    for (auto& [id, context] : contexts_) {
      context.ingest.reset();
      context.num_requests = 0;
    }
    std::erase_if(contexts_, [](const auto& entry) { return entry.second.committed.version == 0; });
    if (with_disk_) {
      DiskTierOptions options;
      options.directory = dir_.path() + "/data";
      options.memory_bytes = 8 * kMiB;
      auto tier = DiskTier::Open(options);
      ASSERT_OK(tier);
      tier_ = std::move(tier).value();
    }
    static constexpr int kWorkers[] = {1, 2, 3, 8};
    const KvGeometry geometry = MakeGeometry(2, 32, {0, 12, 0, 40});
    group_ = std::make_unique<StoreGroup>(geometry,
                                          kWorkers[rng_.Below(4)],
                                          with_disk_ ? 384 * kKiB : 0,
                                          tier_.get(),
                                          with_disk_ && rng_.Below(2) == 0 ? 256 * kKiB : 0);
    if (with_disk_) {
      const auto manifests = tier_->ListManifests();
      ASSERT_OK(manifests);
      EXPECT_EQ(manifests->size(), contexts_.size());
      for (const ContextManifest& manifest : *manifests) {
        EXPECT_EQ(manifest.num_tokens, contexts_.at(manifest.id.value).committed.num_tokens);
        ASSERT_OK(group_->RecoverContext(manifest));
        EXPECT_EQ(tier_->ReadTokens(manifest.id).value().size(),
                  static_cast<size_t>(manifest.num_tokens));
      }
      ASSERT_OK(group_->FinishRecovery());
    }
  }

  void CreateContext() {
    if (contexts_.size() >= 3) {
      return;
    }
    const uint64_t id = ++last_id_;
    ModelContext context{RandomPolicy(), {}, {}, 0};
    context.committed = MakeManifest(id, context.policy);
    if (auto created = group_->CreateContext(context.committed); !created) {
      return ExpectFull(created);
    }
    contexts_[id] = context;
  }

  void OpenIngest() {
    if (contexts_.empty()) {
      return;
    }
    auto& [id, context] =
        *std::next(contexts_.begin(), static_cast<ptrdiff_t>(rng_.Below(contexts_.size())));
    const SequenceId sequence{++last_id_};
    OpenSequenceOptions options;
    options.context = ContextId{id};
    auto opened = group_->OpenSequence(sequence, options);
    if (context.ingest) {
      EXPECT_ERROR(opened, ErrorCode::kConflict);
    } else if (!opened) {
      ExpectFull(opened);
    } else {
      context.ingest = sequence;
      sequences_[sequence.value] = {context.policy, true, id, 0, 0, context.committed.num_tokens};
    }
  }

  void OpenRequest() {
    const SequenceId sequence{++last_id_};
    ModelSequence state{RandomPolicy()};
    OpenSequenceOptions options;
    options.policy = state.policy;
    if (!contexts_.empty() && rng_.Below(4) != 0) {
      auto& [id, context] =
          *std::next(contexts_.begin(), static_cast<ptrdiff_t>(rng_.Below(contexts_.size())));
      state.context = id;
      state.base_length = context.committed.num_tokens;
      state.base_tokens =
          state.base_length - static_cast<int64_t>(rng_.Below(3) == 0 ? rng_.Below(4) : 0);
      state.base_tokens = std::max<int64_t>(0, state.base_tokens);
      options.base = ContextId{id};
      options.base_tokens = state.base_tokens;
    }
    auto opened = group_->OpenSequence(sequence, options);
    if (!opened && opened.error().code == ErrorCode::kConflict) {
      EXPECT_LT(state.base_tokens, state.base_length) << opened.error().message;
      return;
    }
    if (!opened) {
      return ExpectFull(opened);
    }
    if (state.context != 0) {
      ++contexts_.at(state.context).num_requests;
    }
    state.length = state.base_tokens;
    sequences_[sequence.value] = state;
  }

  void CloseSomething() {
    if (!sequences_.empty()) {
      Close(std::next(sequences_.begin(), static_cast<ptrdiff_t>(rng_.Below(sequences_.size())))
                ->first);
    }
  }

  void Close(uint64_t id) {
    const ModelSequence state = sequences_.at(id);
    EXPECT_OK(group_->CloseSequence(SequenceId{id}));
    if (state.is_ingest) {
      contexts_.at(state.context).ingest.reset();
    } else if (state.context != 0) {
      --contexts_.at(state.context).num_requests;
    }
    sequences_.erase(id);
  }

  void Commit() {
    for (auto& [id, context] : contexts_) {
      if (!context.ingest ||
          sequences_.at(context.ingest->value).length == context.committed.num_tokens) {
        continue;
      }
      ContextManifest manifest = context.committed;
      ++manifest.version;
      manifest.num_tokens = sequences_.at(context.ingest->value).length;
      manifest.text_bytes = static_cast<uint64_t>(manifest.num_tokens);
      EXPECT_OK(group_->Commit(*context.ingest, manifest));
      context.committed = manifest;
      return;
    }
  }

  void DeleteContext() {
    if (contexts_.empty()) {
      return;
    }
    const auto& [id, context] = *contexts_.begin();
    const bool in_use = context.ingest || context.num_requests > 0;
    auto deleted = group_->DeleteContext(ContextId{id});
    if (in_use) {
      EXPECT_ERROR(deleted, ErrorCode::kConflict);
    } else {
      EXPECT_OK(deleted);
      contexts_.erase(id);
    }
  }

  // Now and then until nothing is left to do; else a batch may be on its way in what follows.
  void Maintain() {
    if (rng_.Below(3) == 0) {
      return group_->SettleLadders();
    }
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      group_->store(rank).Maintain();
    }
  }

  void Step() {
    if (sequences_.empty()) {
      return;
    }
    auto& [id, state] =
        *std::next(sequences_.begin(), static_cast<ptrdiff_t>(rng_.Below(sequences_.size())));
    const auto tokens = static_cast<int32_t>(1 + rng_.Below(rng_.Below(3) == 0 ? 40 : 4));
    const uint64_t salt = state.is_ingest ? state.context : id;
    auto stepped = group_->Step(SequenceId{id}, salt, tokens, [&, &state = state, id = id] {
      for (int32_t layer = 0; layer < group_->geometry().num_layers(); ++layer) {
        CheckRead(id, state, layer, state.length, state.length + tokens - 1);
      }
    });
    if (!stepped) {
      EXPECT_EQ(group_->Length(SequenceId{id}), state.length);
      return ExpectFull(stepped);
    }
    state.length += tokens;
    EXPECT_EQ(group_->Length(SequenceId{id}), state.length);
  }

  void ReadBetweenSteps() {
    for (const auto& [id, state] : sequences_) {
      if (state.length > 0) {
        CheckRead(id, state, 0, state.length - 1, state.length - 1);
      }
    }
  }

  // A refusal must be one of a budget, and only where there is one.
  void ExpectFull(const Result<void>& refused) {
    EXPECT_TRUE(with_disk_);
    EXPECT_ERROR(refused, ErrorCode::kBudgetExceeded);
    ++num_refused_;
    while (!sequences_.empty()) {
      Close(sequences_.begin()->first);
    }
  }

  void CheckRead(uint64_t id,
                 const ModelSequence& state,
                 int32_t layer,
                 int64_t first_query,
                 int64_t last_query) {
    const auto seen = group_->Read(SequenceId{id}, layer, first_query, last_query);
    ASSERT_OK(seen);
    const int64_t window = group_->geometry().layer_windows[static_cast<size_t>(layer)];
    const int64_t low = window == 0 ? 0 : std::max<int64_t>(0, first_query - window + 1);
    const int64_t floor = low / kPageTokens * kPageTokens;
    // A page that the base and the tail share is two runs; the base's is not shown if no query
    // reaches it.
    const int64_t first = low >= state.base_tokens ? std::max(floor, state.base_tokens) : floor;
    ASSERT_EQ(static_cast<int64_t>(seen->size()), last_query + 1 - first);
    for (size_t i = 0; i < seen->size(); ++i) {
      CheckToken((*seen)[i], id, state, layer, first + static_cast<int64_t>(i));
    }
  }

  void CheckToken(const SeenToken& token,
                  uint64_t id,
                  const ModelSequence& state,
                  int32_t layer,
                  int64_t position) {
    ASSERT_EQ(token.position, position);
    EXPECT_TRUE(group_->store(token.rank).Owns(SequenceId{id}, position));
    const bool of_base = state.context != 0 && (state.is_ingest || position < state.base_tokens);
    const KvPolicy& policy = of_base ? contexts_.at(state.context).policy : state.policy;
    const int64_t length = of_base && !state.is_ingest ? state.base_length : state.length;
    const bool old =
        (position / kPageTokens + 1) * kPageTokens <= length - policy.recent_window_tokens;
    const bool exact = position < policy.sink_tokens || !old;
    // A sealed page of a context may have gone down its ladder.
    const bool may_be_lower = of_base && !exact;
    const std::string name(FindCodec(token.codec).value()->name());
    EXPECT_TRUE(name == (exact ? policy.exact_codec : policy.codec) ||
                (may_be_lower && (name == policy.warm_codec || name == policy.cold_codec)))
        << position << " is in " << name;
    const float slack = CodecSlack(token.codec);
    const uint64_t salt = of_base ? state.context : id;
    for (int32_t c = 0; c < 16; ++c) {
      ASSERT_NEAR(token.k[static_cast<size_t>(c)], KeyAt(salt, layer, position, c), slack)
          << position;
      ASSERT_NEAR(token.v[static_cast<size_t>(c)], ValueAt(salt, layer, position, c), slack)
          << position;
    }
  }

  Rng rng_;
  const bool with_disk_;
  TempDir dir_;
  std::unique_ptr<DiskTier> tier_;
  std::unique_ptr<StoreGroup> group_;
  std::map<uint64_t, ModelContext> contexts_;
  std::map<uint64_t, ModelSequence> sequences_;
  uint64_t last_id_ = 0;
  int num_refused_ = 0;
};

void RunSeed(uint64_t seed, bool with_disk, int num_operations) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  Model model(seed, with_disk);
  for (int i = 0; i < num_operations && !::testing::Test::HasFailure(); ++i) {
    model.RunOperation();
    model.CheckInvariants();
  }
}

TEST(KvStorePropertyTest, AgreesWithTheModelInMemory) {
  for (uint64_t seed = 1; seed <= 40 && !HasFailure(); ++seed) {
    RunSeed(seed, false, 200);
  }
}

TEST(KvStorePropertyTest, AgreesWithTheModelOverDiskAndAcrossRestarts) {
  for (uint64_t seed = 1; seed <= 5 && !HasFailure(); ++seed) {
    RunSeed(1000 + seed, true, 200);
  }
}

}  // namespace
}  // namespace varve
