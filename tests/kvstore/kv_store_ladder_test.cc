// Contexts with a ladder: who goes down when, and that every reader sees every token near its
// number, under budgets that always hold.
#include "kvstore/tokens/token_policy.h"
#include "tests/kvstore/ladder_rig.h"

namespace varve {
namespace {

class KvStoreLadderTest : public LadderRig {};

TEST_F(KvStoreLadderTest, WhatFitsStaysHotAlsoAfterARestart) {
  host_budget_ = 1 * kMiB;
  OpenDisk();
  for (int round = 0; round < 2; ++round) {
    OpenStores(2);
    if (round == 0) {
      Ingest(kContext, kIngest, 400, Ladder());
      ASSERT_OK(group_->CloseSequence(kIngest));
    }
    group_->SettleLadders();
    const ContextUsage usage = Usage();
    EXPECT_EQ(usage.rungs[0].pages, usage.num_pages);
    EXPECT_EQ(group_->store(0).Stats().demotions[2], 0U);
    if (round == 0) {
      OpenDisk();
    }
  }
}

TEST_F(KvStoreLadderTest, WhatDoesNotFitInMemoryGoesColdAndIsStillReadRight) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  const ContextUsage before = Usage();
  EXPECT_EQ(before.rungs[0].pages, before.num_pages);
  group_->SettleLadders();
  const ContextUsage after = Usage();
  EXPECT_GT(after.rungs[0].pages, 0);
  EXPECT_EQ(after.rungs[1].pages, 0) << "there is no tier between";
  EXPECT_GT(after.rungs[2].pages, 50);
  EXPECT_EQ(after.num_pages, before.num_pages);
  EXPECT_LT(after.disk_bytes, before.disk_bytes);
  EXPECT_LT(after.rungs[2].bytes / static_cast<uint64_t>(after.rungs[2].pages),
            after.rungs[0].bytes / static_cast<uint64_t>(after.rungs[0].pages) / 2);
  const WorkerStats stats = group_->store(0).Stats();
  EXPECT_EQ(stats.demotions[2], static_cast<uint64_t>(after.rungs[2].pages));
  EXPECT_GT(stats.demoted_bytes[2], after.rungs[2].bytes);
  EXPECT_EQ(stats.rungs[2].pages, after.rungs[2].pages);
  OpenAsker(2000);
  const auto tokens = CheckContext(kAsker, 2000);
  EXPECT_EQ(tokens.at(CodecId::kInt2), 16 * after.rungs[2].pages);
  // The sinks' page is the first.
  EXPECT_EQ(ReadAll(kAsker, 0)->at(5).codec, CodecId::kInt8);
}

TEST_F(KvStoreLadderTest, ADeviceTierHasTheHotPagesAndTheHostTierTheWarmOnes) {
  device_budget_ = 192 * kKiB;
  host_budget_ = 160 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 3000, Ladder());
  ASSERT_OK(group_->CloseSequence(kIngest));
  group_->SettleLadders();
  const ContextUsage usage = Usage();
  EXPECT_GT(usage.rungs[0].pages, 20);
  EXPECT_GT(usage.rungs[1].pages, 20);
  EXPECT_GT(usage.rungs[2].pages, 20);
  OpenAsker(3000);
  for (int step = 0; step < 3; ++step) {
    const auto tokens = CheckContext(kAsker, 3000);
    EXPECT_EQ(tokens.at(CodecId::kInt4), 16 * usage.rungs[1].pages);
    group_->ExpectWithinBudget();
    ASSERT_OK(group_->Step(kAsker, kAsker.value, 1));
  }
  const WorkerStats stats = group_->store(0).Stats();
  EXPECT_TRUE(stats.has_device);
  EXPECT_GT(stats.page_reads_device, 0U);
  EXPECT_GT(stats.page_reads_host, 0U);
  EXPECT_GT(stats.page_reads_disk, 0U);
}

TEST_F(KvStoreLadderTest, RungsAreRememberedAcrossARestartAndNothingGoesFurther) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  group_->SettleLadders();
  const ContextUsage before = Usage();
  group_.reset();
  OpenDisk();
  OpenStores();
  group_->SettleLadders();
  const ContextUsage after = Usage();
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    EXPECT_EQ(after.rungs[rung].pages, before.rungs[rung].pages);
    EXPECT_EQ(after.rungs[rung].bytes, before.rungs[rung].bytes);
  }
  EXPECT_EQ(group_->store(0).Stats().demotions[2], 0U);
  OpenAsker(2000);
  CheckContext(kAsker, 2000);
}

TEST_F(KvStoreLadderTest, ThePagesThatGetAttentionStayHot) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  OpenAsker(2000);
  ASSERT_TRUE(group_->store(0).ObservesMass(kAsker));
  EXPECT_FALSE(group_->store(0).ObservesMass(kIngest));
  const std::vector<int64_t> pages = {30, 31, 32, 33};
  const std::vector<float> shares(pages.size(), 0.2F);
  for (int32_t layer = 0; layer < 2; ++layer) {
    group_->store(0).ObserveMass(kAsker, layer, pages, shares);
  }
  group_->SettleLadders();
  const auto seen = ReadAll(kAsker, 1);
  ASSERT_OK(seen);
  for (const int64_t page : pages) {
    EXPECT_EQ(seen->at(static_cast<size_t>(16 * page)).codec, CodecId::kInt8) << page;
  }
  EXPECT_EQ(seen->at(16 * 29).codec, CodecId::kInt2);
}

TEST_F(KvStoreLadderTest, APinnedContextStaysHotUntilItIsNoLongerPinned) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  ContextManifest manifest = Version(kContext, 1, 2000, Ladder());
  manifest.attributes.pinned = true;
  ASSERT_OK(group_->store(0).UpdateContext(manifest));
  group_->SettleLadders();
  EXPECT_EQ(Usage().rungs[2].pages, 0);
  manifest.attributes.pinned = false;
  ASSERT_OK(group_->store(0).UpdateContext(manifest));
  group_->SettleLadders();
  EXPECT_GT(Usage().rungs[2].pages, 0);
  manifest.id = ContextId{99};
  EXPECT_ERROR(group_->store(0).UpdateContext(manifest), ErrorCode::kNotFound);
}

constexpr uint64_t kFork = 2;

TEST_F(KvStoreLadderTest, AForkAndItsParentStandOnTheSameRecords) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  ASSERT_OK(group_->CloseSequence(kIngest));
  ASSERT_OK(group_->ForkContext(Version(kContext, 1, 2000, Ladder()), kFork));
  group_->SettleLadders();
  const ContextUsage parent = Usage();
  const ContextUsage fork = group_->store(0).GetContextUsage(ContextId{kFork}).value();
  EXPECT_GT(parent.rungs[2].pages, 0);
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    EXPECT_EQ(fork.rungs[rung].pages, parent.rungs[rung].pages) << rung;
    EXPECT_EQ(fork.rungs[rung].bytes, parent.rungs[rung].bytes) << rung;
    EXPECT_EQ(group_->store(0).Stats().rungs[rung].pages, parent.rungs[rung].pages)
        << "what is shared is counted once";
  }
  EXPECT_EQ(fork.shared_disk_bytes, fork.disk_bytes);
  ASSERT_OK(group_->OpenSequence(kAsker, Behind(kFork, 2000)));
  ASSERT_OK(group_->Step(kAsker, kAsker.value, 1));
  CheckContext(kAsker, 2000);
}

TEST_F(KvStoreLadderTest, PagesOfADeletedParentGoDownByTheAttentionOfItsFork) {
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  ASSERT_OK(group_->CloseSequence(kIngest));
  ASSERT_OK(disk_->WriteManifest(*ForkOf(Version(kContext, 1, 2000, Ladder()),
                                         {.source = ContextId{kContext}, .id = ContextId{kFork}})));
  host_budget_ = 256 * kKiB;
  OpenStores();
  ASSERT_OK(group_->DeleteContext(ContextId{kContext}));
  ASSERT_OK(group_->OpenSequence(kAsker, Behind(kFork, 2000)));
  ASSERT_OK(group_->Step(kAsker, kAsker.value, 1));
  const std::vector<int64_t> pages = {30, 31, 32, 33};
  const std::vector<float> shares(pages.size(), 0.2F);
  for (int32_t layer = 0; layer < 2; ++layer) {
    group_->store(0).ObserveMass(kAsker, layer, pages, shares);
  }
  group_->SettleLadders();
  CheckContext(kAsker, 2000);
  const auto seen = ReadAll(kAsker, 1);
  ASSERT_OK(seen);
  for (const int64_t page : pages) {
    EXPECT_EQ(seen->at(static_cast<size_t>(16 * page)).codec, CodecId::kInt8) << page;
  }
  EXPECT_EQ(seen->at(16 * 29).codec, CodecId::kInt2);
}

TEST_F(KvStoreLadderTest, UncommittedPagesStayHotAndADroppedIngestLeavesTheLadderAsItWas) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 100, Ladder());
  Append(kIngest, kContext, 1900);
  group_->SettleLadders();
  EXPECT_EQ(group_->store(0).Stats().demotions[2], 0U);
  ASSERT_OK(group_->CloseSequence(kIngest));
  EXPECT_EQ(Usage().rungs[0].pages, 2 * 5);
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  Append(kIngest, kContext, 1900);
  ASSERT_OK(group_->Commit(kIngest, Version(kContext, 2, 2000, Ladder())));
  group_->SettleLadders();
  EXPECT_GT(Usage().rungs[2].pages, 0);
  OpenAsker(2000);
  CheckContext(kAsker, 2000);
}

TEST_F(KvStoreLadderTest, WithoutADiskPagesGoDownInMemory) {
  host_budget_ = 640 * kKiB;
  OpenStores();
  ASSERT_OK(group_->CreateContext(MakeManifest(kContext, Ladder())));
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  for (uint64_t version = 1; version <= 30; ++version) {
    Append(kIngest, kContext, 50);
    const auto length = static_cast<int64_t>(50 * version);
    ASSERT_OK(group_->Commit(kIngest, Version(kContext, version, length, Ladder())));
    group_->SettleLadders();
  }
  // All of it in int8 would take about 600 KiB beside what else there is.
  EXPECT_GT(Usage().rungs[2].pages, 0);
  OpenAsker(1500);
  CheckContext(kAsker, 1500);
  ASSERT_OK(group_->CloseSequence(kAsker));
  // What cannot go down further is refused by name.
  Result<void> stepped;
  for (int i = 0; i < 1000 && stepped; ++i) {
    stepped = group_->Step(kIngest, kContext, 50);
  }
  EXPECT_ERROR(stepped, ErrorCode::kBudgetExceeded);
  EXPECT_NE(stepped.error().message.find("host budget"), std::string::npos);
}

TEST_F(KvStoreLadderTest, AFullDiskMakesPagesCold) {
  disk_budget_ = 900 * kKiB;
  OpenDisk();
  OpenStores();
  ASSERT_OK(group_->CreateContext(MakeManifest(kContext, Ladder())));
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  // In int8 alone, 4000 tokens would take about 1300 KiB.
  for (uint64_t version = 1; version <= 80; ++version) {
    Append(kIngest, kContext, 50);
    const auto length = static_cast<int64_t>(50 * version);
    ASSERT_OK(group_->Commit(kIngest, Version(kContext, version, length, Ladder())));
    group_->SettleLadders();
  }
  EXPECT_GT(Usage().rungs[2].pages, 0);
  OpenAsker(4000);
  CheckContext(kAsker, 4000);
}

TEST_F(KvStoreLadderTest, PoliciesThatMakeNoSenseAreRefusedByTheirField) {
  OpenStores();
  const auto refusal = [&](const KvPolicy& policy) {
    const Result<void> created = group_->CreateContext(MakeManifest(5, policy));
    EXPECT_ERROR(created, ErrorCode::kInvalidArgument);
    return created.has_value() ? std::string() : created.error().message;
  };
  EXPECT_NE(refusal(Ladder("zip", "")).find("warm_codec: there is no codec 'zip'"),
            std::string::npos);
  EXPECT_NE(refusal(Ladder("", "bf16")).find("cold_codec is bf16"), std::string::npos);
  EXPECT_NE(refusal(Ladder("int2", "int4")).find("cold_codec is int4"), std::string::npos);
  EXPECT_NE(refusal(Ladder("fp8", "")).find("warm_codec is fp8"), std::string::npos);
  EXPECT_NE(refusal(Ladder("klt2", "")).find("calibrated"), std::string::npos);
  KvPolicy classes = Ladder("rot2", "");
  classes.tokens = "mikv";
  classes.keep = 0.5;
  EXPECT_NE(refusal(classes).find("mikv"), std::string::npos);
  EXPECT_OK(group_->CreateContext(MakeManifest(5, Ladder("int8", "int8"))));
}

class PrunedLadderTest : public LadderRig, public testing::WithParamInterface<const char*> {};

// Pruned pages go down, too: with the tokens that they keep, and as many of them.
TEST_P(PrunedLadderTest, PagesGoDownWithTheTokensThatTheyKeep) {
  KvPolicy policy = Ladder("int4", "");
  policy.tokens = GetParam();
  policy.keep = 0.5;
  host_budget_ = 384 * kKiB;
  geometry_.num_qo_heads = 4;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 4000, policy);
  ASSERT_OK(group_->CloseSequence(kIngest));
  const auto kept = [&] {
    const auto usage = group_->store(0).GetContextUsage(ContextId{kContext});
    EXPECT_OK(usage);
    return std::pair(usage->kept_layer_tokens, usage->num_pages);
  };
  const auto before = kept();
  group_->SettleLadders();
  const ContextUsage settled = Usage();
  EXPECT_GT(settled.rungs[1].pages, 0);
  EXPECT_EQ(kept(), before);
  OpenAsker(4000);
  EXPECT_OK(ReadStore(group_->store(0), geometry_, kAsker, 0, 4000, 4000));
  group_.reset();
  OpenDisk();
  OpenStores();
  group_->SettleLadders();
  // Where the numbers decide how many tokens stay, the size says nothing about the rung before the
  // page is looked at.
  if (!FindTokenPolicy(policy).value()->size_depends_on_data()) {
    EXPECT_EQ(Usage().rungs[1].pages, settled.rungs[1].pages);
  }
  EXPECT_EQ(Usage().disk_bytes, settled.disk_bytes);
}

INSTANTIATE_TEST_SUITE_P(Policies,
                         PrunedLadderTest,
                         testing::Values("streaming", "l2norm", "mikv", "prefixkv"));

}  // namespace
}  // namespace varve
