// Token policies in a store: what stays does not depend on how a context came to be, survives a
// restart, and is counted.
#include <algorithm>
#include <map>
#include <set>

#include "kernels/codec/codec.h"
#include "kvstore/tokens/token_policy.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

class TokenPolicyStoreTest : public StoreRig {
 protected:
  TokenPolicyStoreTest() {
    geometry_.layer_windows = {0, 0, 0, 40};
    geometry_.num_qo_heads = 4;
  }

  static KvPolicy Pruned(std::string_view tokens, double keep) {
    // Packed rows fill units of 8 bytes: in heads of 8, 2 bits take as much as int8, and `qaq`
    // would have nothing to choose from.
    KvPolicy policy = SmallPolicy(tokens == "qaq" ? "f32" : "int8");
    policy.tokens = tokens;
    policy.keep = keep;
    return policy;
  }

  // A token that is held: by which codec, and what it weighs.
  struct Kept {
    CodecId codec{};
    float weight = 0;
    bool operator==(const Kept&) const = default;
  };

  // Which positions each kv head holds of a layer, over all stores.
  std::vector<std::map<int64_t, Kept>> Held(SequenceId sequence, int32_t layer) {
    std::vector<std::map<int64_t, Kept>> held(static_cast<size_t>(geometry_.num_kv_heads));
    const int64_t last = group_->Length(sequence) - 1;
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      auto cursor = group_->store(rank).Read(sequence, layer, last, last, nullptr, 0);
      while (true) {
        const auto views = cursor->Next();
        if (!views) {
          ADD_FAILURE() << views.error().message;
          return held;
        }
        if (views->empty()) {
          break;
        }
        for (const KvView& view : *views) {
          for (int32_t head = 0; head < geometry_.num_kv_heads; ++head) {
            for (int32_t i = 0; i < view.num_tokens; ++i) {
              const auto at = static_cast<size_t>(head * view.num_tokens + i);
              const int32_t index =
                  view.token_indices == nullptr ? view.first_token + i : view.token_indices[at];
              const float weight = view.token_weights == nullptr ? 1.0F : view.token_weights[at];
              EXPECT_TRUE(held[static_cast<size_t>(head)]
                              .emplace(view.first_position + index, Kept{view.codec, weight})
                              .second);
            }
          }
        }
      }
    }
    return held;
  }
  std::vector<std::vector<std::map<int64_t, Kept>>> HeldOfAllLayers(SequenceId sequence) {
    std::vector<std::vector<std::map<int64_t, Kept>>> held;
    for (int32_t layer = 0; layer < geometry_.num_layers(); ++layer) {
      held.push_back(Held(sequence, layer));
    }
    return held;
  }
  void Step(SequenceId sequence, uint64_t salt, int64_t num_tokens, int32_t step_tokens) {
    while (num_tokens > 0) {
      const auto tokens = static_cast<int32_t>(std::min<int64_t>(num_tokens, step_tokens));
      ASSERT_OK(group_->Step(sequence, salt, tokens));
      num_tokens -= tokens;
    }
  }
};

TEST_F(TokenPolicyStoreTest, WhatStaysDependsNeitherOnStepsNorOnWorkers) {
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    SCOPED_TRACE(tokens->name());
    const KvPolicy policy = Pruned(tokens->name(), 0.4);
    OpenStores(1);
    ASSERT_OK(group_->OpenSequence({1}, Private(policy)));
    Step({1}, 5, 150, 150);
    const auto want = HeldOfAllLayers({1});
    EXPECT_EQ(want[2][0].size() < 150U, tokens->further_codecs().empty());
    for (const int num_workers : {1, 3}) {
      OpenStores(num_workers);
      ASSERT_OK(group_->OpenSequence({1}, Private(policy)));
      Step({1}, 5, 150, 7);
      EXPECT_EQ(HeldOfAllLayers({1}), want);
    }
  }
}

TEST_F(TokenPolicyStoreTest, SinksAndTheRecentWindowStayWhole) {
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    SCOPED_TRACE(tokens->name());
    OpenStores(1);
    ASSERT_OK(group_->OpenSequence({1}, Private(Pruned(tokens->name(), 0.1))));
    Step({1}, 5, 150, 50);
    for (const auto& head : Held({1}, 2)) {
      for (int64_t position = 0; position < 150; ++position) {
        if (position < 4 || position >= 150 - 16) {
          EXPECT_EQ(head.count(position), 1U) << position;
          EXPECT_EQ(head.at(position), (Kept{CodecId::kBf16, 1.0F})) << position;
        }
      }
    }
  }
}

TEST_F(TokenPolicyStoreTest, QueriesOfLaterTokensDecideWhatStays) {
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence({1}, Private(Pruned("h2o", 0.25))));
  ASSERT_TRUE(group_->store(0).ObservesQueries({1}));
  // The queries behind page 0 all ask for the key at position 9.
  group_->SetQuery([&](int32_t layer, int64_t /*position*/, int32_t channel) {
    const int32_t kv_channel = channel / 16 * 8 + channel % 8;
    return 4 * KeyAt(5, layer, 9, kv_channel);
  });
  Step({1}, 5, 40, 10);
  for (const auto& head : Held({1}, 2)) {
    EXPECT_EQ(head.count(9), 1U);
    EXPECT_EQ(std::distance(head.lower_bound(4), head.lower_bound(16)), 3);
  }
}

TEST_F(TokenPolicyStoreTest, QueriesOfLaterTokensDecideWhatStaysPrecise) {
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence({1}, Private(Pruned("mikv", 0.25))));
  ASSERT_TRUE(group_->store(0).ObservesQueries({1}));
  group_->SetQuery([&](int32_t layer, int64_t /*position*/, int32_t channel) {
    return 4 * KeyAt(5, layer, 9, channel / 16 * 8 + channel % 8);
  });
  Step({1}, 5, 40, 10);
  for (const auto& head : Held({1}, 2)) {
    EXPECT_EQ(head.size(), 40U);
    EXPECT_EQ(head.at(9).codec, CodecId::kInt8);
    EXPECT_EQ(std::count_if(head.begin(),
                            head.end(),
                            [](const auto& token) { return token.second.codec == CodecId::kRot2; }),
              9);
  }
}

TEST_F(TokenPolicyStoreTest, NoQueriesAreAskedForWhereNobodyLooksAtThem) {
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence({1}, Private(SmallPolicy())));
  ASSERT_OK(group_->OpenSequence({2}, Private(Pruned("l2norm", 0.5))));
  ASSERT_OK(group_->OpenSequence({3}, Private(Pruned("snapkv", 0.5))));
  EXPECT_FALSE(group_->store(0).ObservesQueries({1}));
  EXPECT_FALSE(group_->store(0).ObservesQueries({2}));
  EXPECT_TRUE(group_->store(0).ObservesQueries({3}));
  EXPECT_FALSE(group_->store(0).ObservesQueries({4}));
}

TEST_F(TokenPolicyStoreTest, PrunedContextsComeBackAsTheyWere) {
  OpenDisk();
  uint64_t id = 10;
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    SCOPED_TRACE(tokens->name());
    const KvPolicy policy = Pruned(tokens->name(), 0.4);
    ++id;
    OpenStores(2);
    Ingest(id, {1}, 150, policy);
    ASSERT_OK(group_->CloseSequence({1}));
    ASSERT_OK(group_->OpenSequence({2}, Behind(id, 150)));
    ASSERT_OK(group_->Step({2}, 5, 1));
    const auto before = HeldOfAllLayers({2});
    OpenDisk();
    OpenStores(2);
    ASSERT_OK(group_->OpenSequence({2}, Behind(id, 150)));
    ASSERT_OK(group_->Step({2}, 5, 1));
    EXPECT_EQ(HeldOfAllLayers({2}), before);
  }
}

TEST_F(TokenPolicyStoreTest, UsageSaysWhatIsKeptAndWhatItCosts) {
  OpenDisk();
  uint64_t id = 10;
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    SCOPED_TRACE(tokens->name());
    ++id;
    OpenStores(1);
    const uint64_t disk_before = disk_->GetStats().bytes.used;
    Ingest(id, {1}, 150, Pruned(tokens->name(), 0.4));
    const uint64_t written = disk_->GetStats().bytes.used - disk_before;
    ASSERT_OK(group_->OpenSequence({2}, Behind(id, 150)));
    ASSERT_OK(group_->Step({2}, 5, 1));
    int64_t held = -geometry_.num_layers();  // the request's own token
    for (int32_t layer = 0; layer < geometry_.num_layers(); ++layer) {
      held += static_cast<int64_t>(Held({2}, layer)[0].size());
    }
    const auto usage = group_->store(0).GetContextUsage(ContextId{id});
    ASSERT_OK(usage);
    // Padding can hide a token of a page whose size its numbers decide: records grow by 64 bytes.
    const bool drops = tokens->further_codecs().empty();
    const int64_t slack =
        drops && tokens->size_depends_on_data() ? 2 * group_->geometry().num_layers() * 9 : 0;
    EXPECT_NEAR(static_cast<double>(usage->kept_layer_tokens),
                static_cast<double>(held),
                static_cast<double>(slack));
    EXPECT_EQ(usage->kept_layer_tokens < usage->layer_tokens, drops);
    // Text and ids of the commit are counted by the tier, not by the context's usage.
    EXPECT_LE(usage->disk_bytes, written);
    EXPECT_GT(usage->disk_bytes + 2000, written);
  }
}

// Without a disk the host tier knows the sizes.
TEST_F(TokenPolicyStoreTest, UsageNeedsNoDisk) {
  OpenStores(1);
  Ingest(7, {1}, 150, Pruned("dbudget", 0.2));
  const auto usage = group_->store(0).GetContextUsage(ContextId{7});
  ASSERT_OK(usage);
  EXPECT_LE(usage->kept_layer_tokens, usage->layer_tokens);
  EXPECT_GE(usage->disk_bytes, usage->host_bytes / 2);
}

TEST_F(TokenPolicyStoreTest, ObservedQueriesAreCountedAndGivenBack) {
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence({1}, Private(SmallPolicy())));
  ASSERT_OK(group_->OpenSequence({2}, Private(Pruned("h2o", 0.5))));
  const auto used = [&] { return group_->store(0).Stats().host.used; };
  const uint64_t before = used();
  ASSERT_OK(group_->Step({1}, 5, 10));
  const uint64_t plain = used() - before;
  ASSERT_OK(group_->Step({2}, 5, 10));
  const uint64_t observed = used() - before - plain;
  // 32 queries of 4 heads of 8 in bf16, for each layer's only page.
  EXPECT_EQ(observed - plain, uint64_t{4} * 32 * 4 * 8 * 2);
  ASSERT_OK(group_->CloseSequence({1}));
  ASSERT_OK(group_->CloseSequence({2}));
  EXPECT_LT(used(), before);
}

TEST_F(TokenPolicyStoreTest, ARequestThatBeginsInsideAPrunedPageIsRefused) {
  geometry_.layer_windows = {0, 0, 0};
  OpenStores(1);
  Ingest(7, {1}, 150, Pruned("l2norm", 0.5));
  Ingest(8, {9}, 150, Pruned("mikv", 0.5));
  EXPECT_OK(group_->OpenSequence({2}, Behind(7, 64)));
  EXPECT_OK(group_->OpenSequence({3}, Behind(7, 149)));  // inside the tail, which is whole
  const auto refused = group_->OpenSequence({4}, Behind(7, 70));
  ASSERT_ERROR(refused, ErrorCode::kConflict);
  EXPECT_NE(refused.error().message.find("pruned"), std::string::npos);
  EXPECT_ERROR(group_->OpenSequence({5}, Behind(8, 70)), ErrorCode::kConflict);
}

TEST_F(TokenPolicyStoreTest, APageThatIsReadFromDiskIsChargedWhatItTakes) {
  OpenDisk();
  host_budget_ = 200'000;
  OpenStores(1);
  uint64_t id = 7;
  for (const char* tokens : {"prefixkv", "qaq", "mikv"}) {
    Ingest(id, {1}, 400, Pruned(tokens, 0.4));
    ASSERT_OK(group_->CloseSequence({1}));
    OpenStores(1);
    ASSERT_OK(group_->OpenSequence({2}, Behind(id, 400)));
    ASSERT_OK(group_->Step({2}, 5, 1));
    EXPECT_EQ(Held({2}, 2)[0].count(400), 1U) << tokens;
    group_->ExpectWithinBudget();
    ASSERT_OK(group_->CloseSequence({2}));
    ++id;
  }
}

TEST_F(TokenPolicyStoreTest, RefusesAPolicyThatIsNotThereByName) {
  OpenStores(1);
  const auto refused = group_->OpenSequence({1}, Private(Pruned("nothing", 0.5)));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("nothing"), std::string::npos);
}

}  // namespace
}  // namespace varve
