#include "kvstore/kv_store.h"

#include <algorithm>
#include <bit>

#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kOne{1001};
constexpr SequenceId kTwo{1002};

class KvStoreTest : public StoreRig {};

TEST_F(KvStoreTest, ReadsBackWhatWasAppendedOverAnyNumberOfWorkers) {
  for (const int workers : {1, 2, 3, 8}) {
    OpenStores(workers);
    ASSERT_OK(group_->OpenSequence(kOne, Private(SmallPolicy())));
    for (const int32_t tokens : {1, 15, 40, 1, 33, 64}) {
      ASSERT_OK(group_->Step(kOne, 5, tokens));
    }
    EXPECT_EQ(group_->Length(kOne), 154);
    for (int32_t layer = 0; layer < 2; ++layer) {
      ExpectTokens(ReadAll(kOne, layer), 5, layer, 0, 154);
    }
    ASSERT_OK(group_->CloseSequence(kOne));
    EXPECT_EQ(group_->Length(kOne), -1);
    EXPECT_FALSE(group_->store(0).Owns(kOne, 0));
    EXPECT_TRUE(group_->store(0).HeldPages().empty());
  }
}

TEST_F(KvStoreTest, OpenRefusesGeometriesAndShardsThatCannotBe) {
  EXPECT_ERROR(KvStore::Open({MakeGeometry(0, 8, {0}), {0, 1}, 0}, nullptr),
               ErrorCode::kInvalidArgument);
  EXPECT_ERROR(KvStore::Open({MakeGeometry(1, 0, {0}), {0, 1}, 0}, nullptr),
               ErrorCode::kInvalidArgument);
  EXPECT_ERROR(KvStore::Open({MakeGeometry(1, 8, {}), {0, 1}, 0}, nullptr),
               ErrorCode::kInvalidArgument);
  EXPECT_ERROR(KvStore::Open({MakeGeometry(1, 8, {0}), {2, 2}, 0}, nullptr),
               ErrorCode::kInvalidArgument);
  EXPECT_ERROR(KvStore::Open({MakeGeometry(1, 8, {0}), {0, 0}, 0}, nullptr),
               ErrorCode::kInvalidArgument);
}

// The first sink_tokens and the unsealed tail keep every bit; the rest is lossy, or the test would
// show nothing.
TEST_F(KvStoreTest, SinksAndTheRecentWindowAreExactBitForBit) {
  OpenStores();
  KvPolicy policy = SmallPolicy();
  policy.sink_tokens = 20;  // all of page 0 and a part of page 1
  ASSERT_OK(group_->OpenSequence(kOne, Private(policy)));
  Append(kOne, 5, 100);
  const auto seen = ReadAll(kOne, 0);
  ASSERT_OK(seen);
  bool lossy = false;
  for (const SeenToken& token : *seen) {
    for (int32_t c = 0; c < 16; ++c) {
      const auto got = std::bit_cast<uint32_t>(token.k[static_cast<size_t>(c)]);
      const auto put = std::bit_cast<uint32_t>(KeyAt(5, 0, token.position, c));
      if (token.position < 20 || token.position >= 80) {
        EXPECT_EQ(token.codec, CodecId::kBf16) << token.position;
        EXPECT_EQ(got, put) << token.position;
      } else {
        lossy = lossy || got != put;
      }
    }
  }
  EXPECT_TRUE(lossy);
}

TEST_F(KvStoreTest, OpenSequenceRefusesWhatCannotBe) {
  OpenStores();
  Ingest(7, kOne, 40);
  EXPECT_ERROR(group_->OpenSequence(kOne, Private(SmallPolicy())), ErrorCode::kAlreadyExists);
  EXPECT_ERROR(group_->OpenSequence(kTwo, IngestOf(7)), ErrorCode::kConflict);
  EXPECT_ERROR(group_->OpenSequence(kTwo, IngestOf(8)), ErrorCode::kNotFound);
  EXPECT_ERROR(group_->OpenSequence(kTwo, Behind(8, 1)), ErrorCode::kNotFound);
  EXPECT_ERROR(group_->OpenSequence(kTwo, Behind(7, 41)), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(group_->OpenSequence(kTwo, Behind(7, -1)), ErrorCode::kInvalidArgument);
  OpenSequenceOptions both = Behind(7, 10);
  both.context = ContextId{7};
  EXPECT_ERROR(group_->OpenSequence(kTwo, both), ErrorCode::kInvalidArgument);
  OpenSequenceOptions stray = Private(SmallPolicy());
  stray.base_tokens = 5;
  EXPECT_ERROR(group_->OpenSequence(kTwo, stray), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(group_->CloseSequence(kTwo), ErrorCode::kNotFound);
}

TEST_F(KvStoreTest, PoliciesAreRefusedByField) {
  OpenStores();
  const auto refused = [&](const char* field, auto change) {
    KvPolicy policy = SmallPolicy();
    change(policy);
    const auto opened = group_->OpenSequence(kOne, Private(policy));
    EXPECT_ERROR(opened, ErrorCode::kInvalidArgument);
    EXPECT_NE(opened.error().message.find(field), std::string::npos) << opened.error().message;
  };
  refused("page_tokens", [](KvPolicy& policy) { policy.page_tokens = 0; });
  refused("page_tokens", [](KvPolicy& policy) { policy.page_tokens = 1 << 17; });
  refused("sink_tokens", [](KvPolicy& policy) { policy.sink_tokens = -1; });
  refused("recent_window_tokens", [](KvPolicy& policy) { policy.recent_window_tokens = -1; });
  refused("exact_codec", [](KvPolicy& policy) { policy.exact_codec = "int8"; });
  refused("int9", [](KvPolicy& policy) { policy.codec = "int9"; });
}

TEST_F(KvStoreTest, BeginStepRefusesBeforeAnythingHappens) {
  OpenStores();
  KvStore& store = group_->store(0);
  EXPECT_ERROR(store.BeginStep(kOne, 0, 1), ErrorCode::kNotFound);
  EXPECT_ERROR(store.EndStep(kOne), ErrorCode::kNotFound);
  ASSERT_OK(group_->OpenSequence(kOne, Private(SmallPolicy())));
  EXPECT_ERROR(store.BeginStep(kOne, 1, 1), ErrorCode::kConflict);
  EXPECT_ERROR(store.BeginStep(kOne, 0, 0), ErrorCode::kInvalidArgument);
  ASSERT_OK(store.BeginStep(kOne, 0, 1));
  EXPECT_ERROR(store.BeginStep(kOne, 0, 1), ErrorCode::kConflict);
  store.AbortStep(kOne);
  EXPECT_EQ(store.SequenceLength(kOne), 0);
}

TEST_F(KvStoreTest, AnAbortedStepLeavesNothingBehind) {
  OpenStores();
  ASSERT_OK(group_->OpenSequence(kOne, Private(SmallPolicy())));
  Append(kOne, 5, 21);
  const uint64_t used = group_->store(0).Stats().host.used;
  ASSERT_OK(group_->store(0).BeginStep(kOne, 21, 200));
  EXPECT_GT(group_->store(0).Stats().host.used, used);
  group_->store(0).AbortStep(kOne);
  EXPECT_EQ(group_->store(0).Stats().host.used, used);
  Append(kOne, 5, 60);
  ExpectTokens(ReadAll(kOne, 1), 5, 1, 0, 81);
}

TEST_F(KvStoreTest, AFullMemoryTierRefusesTheStepAndNothingElse) {
  host_budget_ = 16 * kKiB;
  OpenStores();
  ASSERT_OK(group_->OpenSequence(kOne, Private(SmallPolicy("bf16"))));
  Result<void> stepped;
  while (stepped) {
    stepped = group_->Step(kOne, 5, 8);
    group_->ExpectWithinBudget();
  }
  EXPECT_ERROR(stepped, ErrorCode::kBudgetExceeded);
  EXPECT_NE(stepped.error().message.find("the host budget of 16.0 KiB cannot hold"),
            std::string::npos)
      << stepped.error().message;
  ExpectTokens(ReadAll(kOne, 0), 5, 0, 0, group_->Length(kOne));
  ASSERT_OK(group_->CloseSequence(kOne));
  EXPECT_ERROR(group_->OpenSequence(kOne,
                                    [] {
                                      KvPolicy policy = SmallPolicy();
                                      policy.page_tokens = 4096;
                                      return Private(policy);
                                    }()),
               ErrorCode::kBudgetExceeded);
}

TEST_F(KvStoreTest, ARequestSeesItsBaseThenItsOwnTail) {
  OpenStores(3);
  Ingest(7, kOne, 100);
  for (const int64_t base_tokens : {100, 99, 64, 33, 1}) {
    ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, base_tokens)));
    EXPECT_EQ(group_->Length(kTwo), base_tokens);
    Append(kTwo, 9, 70);
    const auto seen = ReadAll(kTwo, 1);
    ASSERT_OK(seen);
    ASSERT_EQ(static_cast<int64_t>(seen->size()), base_tokens + 70);
    for (const SeenToken& token : *seen) {
      const uint64_t salt = token.position < base_tokens ? 7 : 9;
      ASSERT_NEAR(token.v[3], ValueAt(salt, 1, token.position, 3), 2.0F / 127) << token.position;
      EXPECT_TRUE(group_->store(token.rank).Owns(kTwo, token.position));
    }
    ASSERT_OK(group_->CloseSequence(kTwo));
  }
}

// The tail of a context and what a request puts behind it lie on the same workers.
TEST_F(KvStoreTest, ATailIsPlacedLikeItsContext) {
  OpenStores(3);
  Ingest(7, kOne, 100);
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 100)));
  for (int64_t position = 0; position < 300; position += 16) {
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(group_->store(rank).Owns(kOne, position), group_->store(rank).Owns(kTwo, position));
    }
  }
}

TEST_F(KvStoreTest, EachWorkerHoldsOnlyItsOwnPages) {
  OpenStores(3);
  Ingest(7, kOne, 300);
  for (int rank = 0; rank < 3; ++rank) {
    const auto held = group_->store(rank).HeldPages();
    EXPECT_GE(held.size(), 2U * 6U);
    for (const KvStore::HeldPage& page : held) {
      EXPECT_TRUE(group_->store(rank).Owns(kOne, page.page * 16));
    }
  }
}

}  // namespace
}  // namespace varve
