// The index by which requests choose pages: how it comes to be, what it costs, what it refuses.
#include "kvstore/key_index.h"

#include <cstring>

#include "kvstore/page_format.h"
#include "tests/kvstore/selection_rig.h"

namespace varve {
namespace {

TEST(KeyIndex, ChargesWhatItHoldsAndGivesItBack) {
  constexpr int32_t kClusters = 2;  // of 32 tokens
  constexpr int32_t kHeads = 2;
  constexpr int32_t kHeadDim = 8;
  MemoryTier host("host", uint64_t{10'000}, nullptr);
  KeyIndex index(MakeGeometry(kHeads, kHeadDim, {0}), 32);
  EXPECT_FALSE(index.has_room());
  ASSERT_OK(index.Reserve(host, 1));
  const uint64_t block = host.used();
  EXPECT_GE(block, KeyIndex::kBlockPages * uint64_t{kClusters} * kHeads * kHeadDim * 2);
  ASSERT_OK(index.Reserve(host, KeyIndex::kBlockPages));
  EXPECT_EQ(host.used(), block) << "the block has room for them";
  const auto refused = index.Reserve(host, 1000);
  ASSERT_ERROR(refused, ErrorCode::kBudgetExceeded);
  EXPECT_NE(refused.error().message.find("key centroids"), std::string::npos);
  EXPECT_LE(host.used(), 10'000U);
  const std::vector<uint16_t> centroids(size_t{kClusters} * kHeads * kHeadDim, 7);
  for (int64_t page = 0; page < 9; ++page) {
    ASSERT_TRUE(index.has_room());
    index.Add(centroids);
  }
  index.Truncate(8);
  EXPECT_EQ(index.num_pages(), 8);
  EXPECT_EQ(host.used(), block);
  index.Truncate(8);
  EXPECT_EQ(index.num_pages(), 8);
  index.Truncate(0);
  EXPECT_EQ(host.used(), 0U);
}

using KeyIndexStoreTest = PageSelectionTest;

TEST_F(KeyIndexStoreTest, ARecoveredContextChoosesTheSame) {
  OpenDisk();
  OpenStores(2);
  Ingest(kContext, kIngest, 400, Selective(0.3));
  OpenDisk();
  OpenStores(2);
  const uint64_t before = group_->store(0).Stats().disk_bytes_read;
  OpenAsker(400, 0.3);
  EXPECT_GT(group_->store(0).Stats().disk_bytes_read, before) << "the index was filled from disk";
  for (uint64_t seed = 0; seed < 10; ++seed) {
    ExpectChoice(24, 0.3, kGlobal, seed);
  }
  // The next request finds the index.
  const uint64_t filled = group_->store(0).Stats().disk_bytes_read;
  ASSERT_OK(group_->OpenSequence({5}, Asking(400, 0.3)));
  ASSERT_OK(group_->Step({5}, 5, 1));
  EXPECT_EQ(group_->store(0).Stats().disk_bytes_read, filled);
}

TEST_F(KeyIndexStoreTest, AnIngestThatGoesOnAddsItsPagesBehindARestartOrNot) {
  OpenDisk();
  for (const bool restart : {false, true}) {
    for (const bool asked_before : {false, true}) {
      SCOPED_TRACE(std::to_string(restart) + std::to_string(asked_before));
      OpenStores(1);
      Ingest(kContext, kIngest, 200, Selective(0.3));
      ASSERT_OK(group_->CloseSequence(kIngest));
      if (restart) {
        OpenDisk();
        OpenStores(1);
      }
      if (asked_before) {
        OpenAsker(200, 0.3);
        ExpectChoice(11, 0.3, kGlobal, 1);
        ASSERT_OK(group_->CloseSequence(kAsker));
      }
      ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
      Append(kIngest, kContext, 200);
      ASSERT_OK(group_->Commit(kIngest, Version(kContext, 2, 400, Selective(0.3))));
      ASSERT_OK(group_->CloseSequence(kIngest));
      OpenAsker(400, 0.3);
      for (uint64_t seed = 0; seed < 5; ++seed) {
        ExpectChoice(24, 0.3, 2, seed);
      }
      ASSERT_OK(group_->CloseSequence(kAsker));
      ASSERT_OK(group_->DeleteContext(ContextId{kContext}));
    }
  }
}

TEST_F(KeyIndexStoreTest, PagesOfADroppedIngestLeaveTheIndex) {
  OpenStores(1);
  Ingest(kContext, kIngest, 200, Selective(0.3));
  Append(kIngest, 99, 100);  // other keys
  ASSERT_OK(group_->CloseSequence(kIngest));
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  Append(kIngest, kContext, 200);
  ASSERT_OK(group_->Commit(kIngest, Version(kContext, 2, 400, Selective(0.3))));
  OpenAsker(400, 0.3);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    ExpectChoice(24, 0.3, kGlobal, seed);
  }
}

// 272 tokens: 16 sealed pages, two full blocks. The ingest could not reserve room when its step
// began.
TEST_F(KeyIndexStoreTest, ARequestMayFillTheIndexInTheMiddleOfAnIngestsStep) {
  OpenDisk();
  OpenStores(1);
  Ingest(kContext, kIngest, 272, Selective(0.3));
  OpenDisk();
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  ASSERT_OK(group_->Step(kIngest, kContext, 40, [&] { OpenAsker(272, 0.3); }));
  ExpectChoice(16, 0.3, kGlobal, 1);
  ASSERT_OK(group_->CloseSequence(kAsker));
  Append(kIngest, kContext, 88);
  ASSERT_OK(group_->Commit(kIngest, Version(kContext, 2, 400, Selective(0.3))));
  OpenAsker(400, 0.3);
  ExpectChoice(24, 0.3, kGlobal, 2);
}

TEST_F(KeyIndexStoreTest, UsageCountsWhatCentroidsTake) {
  OpenDisk();
  OpenStores(1);
  const uint64_t before = disk_->GetStats().bytes.used;
  Ingest(kContext, kIngest, 400, Selective(0.5, "int8"));
  const uint64_t written = disk_->GetStats().bytes.used - before;
  const auto usage = group_->store(0).GetContextUsage(ContextId{kContext});
  ASSERT_OK(usage);
  EXPECT_EQ(usage->kept_layer_tokens, usage->layer_tokens);
  // Text and ids of the commit are counted by the tier, not by the context's usage.
  EXPECT_LE(usage->disk_bytes, written);
  EXPECT_GT(usage->disk_bytes + 4000, written);
}

TEST_F(KeyIndexStoreTest, TheIndexIsCountedAndGivenBack) {
  OpenStores(1);
  const auto used = [&] { return group_->store(0).Stats().host.used; };
  const uint64_t before = used();
  Ingest(kContext, kIngest, 400, Selective(0.5, "int8"));
  Ingest(8, {5}, 400, SmallPolicy());
  ASSERT_OK(group_->CloseSequence(kIngest));
  ASSERT_OK(group_->CloseSequence({5}));
  const uint64_t both = used();
  ASSERT_OK(group_->DeleteContext(ContextId{8}));
  const uint64_t selective = used();
  EXPECT_GT(selective - before, both - selective + 2 * 24 * kKvHeads * kDim * 2);
  ASSERT_OK(group_->DeleteContext(ContextId{kContext}));
  EXPECT_LT(used(), before + (both - selective));  // the workspace stays
}

// Pages of one token: their centroids are most of what is held.
TEST_F(KeyIndexStoreTest, AnIngestWhoseCentroidsHaveNoRoomIsRefused) {
  host_budget_ = 100'000;
  OpenDisk();
  OpenStores(1);
  KvPolicy policy = Selective(0.5);
  policy.page_tokens = 1;
  ASSERT_OK(group_->CreateContext(MakeManifest(kContext, policy)));
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  Result<void> stepped;
  for (int steps = 0; stepped && steps < 500; ++steps) {
    stepped = group_->Step(kIngest, kContext, 8);
    group_->ExpectWithinBudget();
  }
  ASSERT_ERROR(stepped, ErrorCode::kBudgetExceeded);
  EXPECT_NE(stepped.error().message.find("key centroids"), std::string::npos)
      << stepped.error().message;
  EXPECT_GT(group_->Length(kIngest), 200);
  ASSERT_OK(group_->CloseSequence(kIngest));
}

TEST_F(KeyIndexStoreTest, ARequestWhoseIndexHasNoRoomIsRefusedAndAnotherContextIsNot) {
  KvPolicy policy = Selective(0.5);
  policy.page_tokens = 1;
  OpenDisk();
  OpenStores(1);
  Ingest(kContext, kIngest, 1200, policy);
  Ingest(8, {5}, 100);
  host_budget_ = 100'000;
  OpenDisk();
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence(kAsker, Asking(1200, 0.5)));
  // There is no room for more centroids, or for the page to take them from.
  ASSERT_ERROR(group_->Step(kAsker, 5, 1), ErrorCode::kBudgetExceeded);
  group_->ExpectWithinBudget();
  ASSERT_OK(group_->CloseSequence(kAsker));
  ASSERT_OK(group_->DeleteContext(ContextId{kContext}));
  ASSERT_OK(group_->OpenSequence(kAsker, Behind(8, 100)));
  EXPECT_OK(group_->Step(kAsker, 5, 1));
}

TEST_F(KeyIndexStoreTest, ADamagedPageFailsTheRequestThatFillsTheIndex) {
  OpenDisk();
  OpenStores(1);
  Ingest(kContext, kIngest, 400, Selective(0.3));
  const PageKey key{PageKey::Space::kContext, kContext, 2, 2, 5};
  const std::vector<std::byte> good = disk_->GetPages({key}).get().value().at(0);
  const auto put = [&](const std::vector<std::byte>& record) {
    const std::span<const std::byte> bytes = record;
    ASSERT_OK(disk_->PutPages({&key, 1}, {&bytes, 1}));
    OpenDisk();
    OpenStores(1);
    ASSERT_OK(group_->OpenSequence(kAsker, Asking(400, 0.3)));
  };
  std::vector<std::byte> bad = good;
  bad.back() ^= std::byte{1};
  put(bad);
  const auto damaged = group_->Step(kAsker, 5, 1);
  ASSERT_ERROR(damaged, ErrorCode::kPageCorrupt);
  EXPECT_NE(damaged.error().message.find("layer 2 page 5"), std::string::npos);
  // The same page as a context without the policy has it.
  std::vector<std::byte> plain;
  {
    OpenDisk();
    OpenStores(1);
    Ingest(8, {5}, 400, SmallPolicy("f32"));
    PageKey there = key;
    there.owner = 8;
    plain = disk_->GetPages({there}).get().value().at(0);
    std::memcpy(plain.data() + 16, &kContext, sizeof(kContext));  // the owner in its header
    ASSERT_TRUE(RewriteChecksum(key, plain));
  }
  put(plain);
  const auto without = group_->Step(kAsker, 5, 1);
  ASSERT_ERROR(without, ErrorCode::kPageCorrupt);
  EXPECT_NE(without.error().message.find("no key centroids"), std::string::npos);
  put(good);
  EXPECT_OK(group_->Step(kAsker, 5, 1));
}

TEST_F(KeyIndexStoreTest, PagesBehindADamagedOneAreLeftToTheRequestThatFindsItWhole) {
  OpenDisk();
  OpenStores(1);
  Ingest(kContext, kIngest, 200, Selective(0.3));
  const PageKey key{PageKey::Space::kContext, kContext, 2, 2, 5};
  const std::vector<std::byte> good = disk_->GetPages({key}).get().value().at(0);
  std::vector<std::byte> bad = good;
  bad.back() ^= std::byte{1};
  const auto put = [&](std::span<const std::byte> record) {
    ASSERT_OK(disk_->PutPages({&key, 1}, {&record, 1}));
  };
  put(bad);
  OpenDisk();
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence(kAsker, Asking(200, 0.3)));
  ASSERT_ERROR(group_->Step(kAsker, 5, 1), ErrorCode::kPageCorrupt);
  ASSERT_OK(group_->CloseSequence(kAsker));
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  Append(kIngest, kContext, 200);
  ASSERT_OK(group_->Commit(kIngest, Version(kContext, 2, 400, Selective(0.3))));
  put(good);
  OpenAsker(400, 0.3);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    ExpectChoice(24, 0.3, kGlobal, seed);
    ExpectChoice(24, 0.3, 2, seed);
  }
}

}  // namespace
}  // namespace varve
