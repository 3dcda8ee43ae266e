// Forks: what is shared, until when it stays, and what a reopened directory has of it. What
// kv_store_owners.cc does.
#include <algorithm>
#include <cstdio>
#include <map>

#include "proto/base/clock.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kOne{1001};
constexpr SequenceId kTwo{1002};
constexpr SequenceId kThree{1003};

// A context's tokens from `first` on were appended with this salt.
struct Stretch {
  int64_t first = 0;
  uint64_t salt = 0;
};

class KvStoreForkTest : public StoreRig {
 protected:
  void SetUp() override { geometry_ = MakeGeometry(2, 8, {0, 40, 8}); }

  void Make(uint64_t id, int64_t num_tokens) {
    Ingest(id, kOne, num_tokens);
    ASSERT_OK(group_->CloseSequence(kOne));
    committed_[id] = Version(id, 1, num_tokens);
    stretches_[id] = {{0, id}};
  }
  void Fork(uint64_t source, uint64_t id) {
    ASSERT_OK(group_->ForkContext(committed_.at(source), id));
    committed_[id] = *ForkOf(committed_.at(source),
                             {.source = ContextId{source},
                              .id = ContextId{id},
                              .name = "context-" + std::to_string(id)});
    stretches_[id] = stretches_.at(source);
  }
  void Grow(uint64_t id, int64_t num_tokens) {
    ASSERT_OK(group_->OpenSequence(kOne, IngestOf(id)));
    Append(kOne, id, num_tokens);
    ContextManifest next = committed_.at(id);
    stretches_[id].push_back({next.num_tokens, id});
    ++next.version;
    next.tail = {};
    next.num_tokens += num_tokens;
    next.text_bytes = static_cast<uint64_t>(next.num_tokens);
    ASSERT_OK(group_->Commit(kOne, next));
    ASSERT_OK(group_->CloseSequence(kOne));
    committed_[id] = next;
  }
  void Delete(uint64_t id) {
    ASSERT_OK(group_->DeleteContext(ContextId{id}));
    committed_.erase(id);
  }

  // All tokens of the context as a request sees them, in every layer.
  void ExpectWhole(uint64_t id) {
    SCOPED_TRACE("context " + std::to_string(id));
    const int64_t length = committed_.at(id).num_tokens;
    ASSERT_OK(group_->OpenSequence(kThree, Behind(id, length)));
    for (int32_t layer = 0; layer < geometry_.num_layers(); ++layer) {
      const int64_t window = geometry_.layer_windows[static_cast<size_t>(layer)];
      ASSERT_OK(group_->Step(kThree, 99, 1, [&] { ExpectLayer(id, layer, window, length); }));
      ASSERT_OK(group_->CloseSequence(kThree));
      ASSERT_OK(group_->OpenSequence(kThree, Behind(id, length)));
    }
    ASSERT_OK(group_->CloseSequence(kThree));
  }
  void ExpectLayer(uint64_t id, int32_t layer, int64_t window, int64_t length) {
    const auto seen = group_->Read(kThree, layer, length, length);
    ASSERT_OK(seen);
    const int64_t low = window == 0 ? 0 : std::max<int64_t>(0, length - window + 1) / 16 * 16;
    ASSERT_EQ(static_cast<int64_t>(seen->size()), length + 1 - low);
    for (size_t i = 0; i + 1 < seen->size(); ++i) {
      const SeenToken& token = (*seen)[i];
      ASSERT_EQ(token.position, low + static_cast<int64_t>(i));
      uint64_t salt = 0;
      for (const Stretch& stretch : stretches_.at(id)) {
        salt = token.position >= stretch.first ? stretch.salt : salt;
      }
      ASSERT_NEAR(token.k[3], KeyAt(salt, layer, token.position, 3), 2.0F / 127)
          << "layer " << layer << " position " << token.position;
    }
  }
  // Every byte on disk is some context's own; text and tokens (5 bytes a token, two records of 63
  // bytes a commit) are not part of the usage.
  void ExpectSumsAreRight(uint64_t text_bytes) {
    uint64_t disk_bytes = text_bytes;
    uint64_t host_bytes = 0;
    for (const auto& [id, manifest] : committed_) {
      for (int rank = 0; rank < group_->num_workers(); ++rank) {
        const auto usage = group_->store(rank).GetContextUsage(ContextId{id});
        ASSERT_OK(usage);
        disk_bytes += usage->disk_bytes - usage->shared_disk_bytes;
        host_bytes += usage->host_bytes - usage->shared_host_bytes;
      }
    }
    EXPECT_EQ(disk_bytes, disk_->GetStats().bytes.used);
    EXPECT_GT(host_bytes, 0U);
  }
  static uint64_t TextBytes(int64_t num_tokens, int num_commits) {
    return static_cast<uint64_t>(5 * num_tokens + 2 * 63 * num_commits);
  }
  int64_t NumPages() {
    int64_t pages = 0;
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      pages += group_->store(rank).Stats().num_pages;
    }
    return pages;
  }
  // What the stores say they hold is what is on disk.
  void ExpectPagesOnDisk(std::initializer_list<uint64_t> owners) {
    size_t on_disk = 0;
    for (const uint64_t owner : owners) {
      on_disk += disk_->ListPages(ContextId{owner})->size();
    }
    EXPECT_EQ(static_cast<size_t>(NumPages()), on_disk);
  }

  std::map<uint64_t, ContextManifest> committed_;
  std::map<uint64_t, std::vector<Stretch>> stretches_;
};

TEST_F(KvStoreForkTest, AForkAndItsParentGoTheirOwnWays) {
  OpenDisk();
  OpenStores(2);
  Make(7, 135);
  const uint64_t used = disk_->GetStats().bytes.used;
  Fork(7, 8);
  EXPECT_EQ(disk_->GetStats().bytes.used, used) << "a fork copies nothing";
  ExpectWhole(8);
  Grow(7, 210);
  ExpectWhole(8);
  Grow(8, 90);
  ExpectWhole(7);
  ExpectWhole(8);
  EXPECT_EQ(disk_->ReadTokens(ContextId{8}).value(), MakeAppend(0, 225).tokens);
  EXPECT_EQ(disk_->ReadText(ContextId{8}).value(), MakeAppend(0, 225).text);
  ExpectSumsAreRight(TextBytes(345 + 90, 3));
  ExpectPagesOnDisk({7, 8});
}

TEST_F(KvStoreForkTest, WithoutADiskForksShareMemory) {
  OpenStores(2);
  Make(7, 135);
  Fork(7, 8);
  Grow(7, 210);
  Grow(8, 90);
  ExpectWhole(7);
  ExpectWhole(8);
  Delete(7);
  ExpectWhole(8);
  Fork(8, 9);
  Delete(8);
  ExpectWhole(9);
  Delete(9);
  EXPECT_TRUE(group_->store(0).HeldPages().empty());
  EXPECT_EQ(NumPages(), 0);
}

TEST_F(KvStoreForkTest, ADeletedParentsPagesStayUntilItsLastForkGoes) {
  OpenDisk();
  OpenStores(2);
  Make(7, 300);
  Fork(7, 8);
  Grow(7, 100);
  Fork(7, 9);
  Delete(7);
  EXPECT_EQ(disk_->ListManifests()->size(), 2U);
  ExpectWhole(8);
  ExpectWhole(9);
  ExpectSumsAreRight(TextBytes(400, 2));
  ExpectPagesOnDisk({7});
  OpenDisk();
  OpenStores(3);
  ExpectWhole(8);
  ExpectWhole(9);
  EXPECT_EQ(disk_->ReadTokens(ContextId{8}).value(), MakeAppend(0, 300).tokens);
  ExpectSumsAreRight(TextBytes(400, 2));
  ExpectPagesOnDisk({7});
  Delete(9);
  ExpectWhole(8);
  ExpectSumsAreRight(TextBytes(300, 1));
  ExpectPagesOnDisk({7});
  Delete(8);
  EXPECT_EQ(disk_->GetStats().bytes.used, 0U);
  EXPECT_TRUE(group_->store(0).HeldPages().empty());
  EXPECT_EQ(NumPages(), 0);
}

TEST_F(KvStoreForkTest, ForksOfForksReadThroughAllOfThem) {
  for (const std::vector<uint64_t>& order :
       {std::vector<uint64_t>{7, 8, 9, 10}, {10, 9, 8, 7}, {8, 10, 7, 9}, {9, 7, 10, 8}}) {
    OpenDisk();
    OpenStores(2);
    Make(7, 200);
    Fork(7, 8);
    Grow(8, 77);
    Fork(8, 9);   // behind a commit of its own
    Fork(9, 10);  // has nothing of its own
    EXPECT_EQ(committed_.at(10).lineage.size(), 2U);
    Grow(9, 64);
    Grow(10, 5);
    for (const uint64_t id : order) {
      for (const auto& [left, manifest] : committed_) {
        ExpectWhole(left);
        EXPECT_EQ(disk_->ReadTokens(ContextId{left}).value(),
                  MakeAppend(0, manifest.num_tokens).tokens);
      }
      OpenDisk();
      OpenStores(3);
      Delete(id);
    }
    EXPECT_EQ(disk_->GetStats().bytes.used, 0U);
    EXPECT_EQ(NumPages(), 0);
  }
}

TEST_F(KvStoreForkTest, ATailStaysForAsLongAsAForkReadsIt) {
  OpenDisk();
  OpenStores(2);
  Make(7, 100);
  Fork(7, 8);
  Grow(7, 100);
  Grow(7, 100);
  EXPECT_FALSE(disk_->GetTails(ContextId{7}, 1)->empty());
  EXPECT_TRUE(disk_->GetTails(ContextId{7}, 2)->empty());
  OpenDisk();
  OpenStores(1);
  EXPECT_FALSE(disk_->GetTails(ContextId{7}, 1)->empty());
  ExpectWhole(8);
  Grow(8, 1);  // now it has a tail of its own
  EXPECT_TRUE(disk_->GetTails(ContextId{7}, 1)->empty());
  ExpectWhole(8);
  ExpectSumsAreRight(TextBytes(301, 4));
}

TEST_F(KvStoreForkTest, ARequestOnAForkKeepsItsSnapshotWhileTheForkGrows) {
  OpenDisk();
  OpenStores(2);
  Make(7, 100);
  Fork(7, 8);
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(8, 100)));
  Grow(8, 150);
  Grow(7, 150);
  EXPECT_FALSE(disk_->GetTails(ContextId{7}, 1)->empty());
  for (const int32_t layer : {0, 1}) {
    const auto seen = ReadAll(kTwo, layer);
    ASSERT_OK(seen);
    EXPECT_EQ(seen->back().position, 99);
    EXPECT_EQ(seen->back().codec, CodecId::kBf16);
  }
  EXPECT_ERROR(group_->DeleteContext(ContextId{8}), ErrorCode::kConflict);
  ASSERT_OK(group_->DeleteContext(ContextId{7}));
  ExpectTokens(ReadAll(kTwo, 0), 7, 0, 0, 100);
  ASSERT_OK(group_->CloseSequence(kTwo));
  EXPECT_TRUE(disk_->GetTails(ContextId{7}, 1)->empty());
  committed_.erase(7);
  ExpectWhole(8);
}

TEST_F(KvStoreForkTest, AForkThatFallsBackKeepsWhatItShares) {
  OpenDisk();
  OpenStores(2);
  Make(7, 130);
  Fork(7, 8);
  const uint64_t used = disk_->GetStats().bytes.used;
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(8)));
  Append(kOne, 8, 300);
  EXPECT_GT(disk_->GetStats().bytes.used, used);
  ASSERT_OK(group_->CloseSequence(kOne));
  EXPECT_EQ(disk_->GetStats().bytes.used, used);
  ExpectWhole(7);
  ExpectWhole(8);
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  Append(kOne, 7, 300);
  Delete(8);  // the parent's ingest goes on
  ASSERT_OK(group_->CloseSequence(kOne));
  EXPECT_EQ(disk_->GetStats().bytes.used, used);
  ExpectWhole(7);
}

TEST_F(KvStoreForkTest, ForksAreRefusedThatAreNone) {
  OpenDisk();
  OpenStores();
  Make(7, 100);
  ContextManifest fork =
      *ForkOf(committed_.at(7), {.source = ContextId{7}, .id = ContextId{8}, .name = "fork"});
  EXPECT_ERROR(group_->store(0).ForkContext(ContextId{6}, fork), ErrorCode::kNotFound);
  ContextManifest other = fork;
  other.lineage[0].end_page -= 1;
  EXPECT_ERROR(group_->store(0).ForkContext(ContextId{7}, other), ErrorCode::kConflict);
  other = fork;
  other.policy.sink_tokens = 0;
  EXPECT_ERROR(group_->store(0).ForkContext(ContextId{7}, other), ErrorCode::kConflict);
  Grow(7, 10);
  EXPECT_ERROR(group_->store(0).ForkContext(ContextId{7}, fork), ErrorCode::kConflict);
  Fork(7, 8);
  EXPECT_ERROR(group_->ForkContext(committed_.at(7), 8), ErrorCode::kAlreadyExists);
  EXPECT_ERROR(group_->store(0).UpdateContext(Version(5, 1, 1)), ErrorCode::kNotFound);
  EXPECT_OK(group_->store(0).UpdateContext(committed_.at(8)));
}

// Goal: a fork costs one synced manifest, however long the context is. The figure is printed; what
// is checked is that nothing else is written.
TEST_F(KvStoreForkTest, AMillionTokensAreForkedByOneManifest) {
  constexpr int64_t kTokens = 1'000'000;
  geometry_ = MakeGeometry(1, 8, {0, 0});
  KvPolicy policy;
  policy.page_tokens = 128;
  host_budget_ = 64 * kMiB;
  OpenDisk();
  OpenStores(2);
  ASSERT_OK(group_->CreateContext(MakeManifest(7, policy)));
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  while (group_->Length(kOne) < kTokens) {
    ASSERT_OK(group_->Step(
        kOne, 7, static_cast<int32_t>(std::min<int64_t>(4000, kTokens - group_->Length(kOne)))));
  }
  committed_[7] = Version(7, 1, kTokens, policy);
  ASSERT_OK(group_->Commit(kOne, committed_[7]));
  ASSERT_OK(group_->CloseSequence(kOne));
  const DiskTier::Stats before = disk_->GetStats();
  std::vector<int64_t> times_us;
  for (uint64_t fork = 8; fork < 19; ++fork) {
    const int64_t start_us = SystemClock().NowUs();
    ASSERT_OK(group_->ForkContext(committed_[7], fork));
    times_us.push_back(SystemClock().NowUs() - start_us);
  }
  std::sort(times_us.begin(), times_us.end());
  RecordProperty("fork_us_median", static_cast<int>(times_us[5]));
  std::printf("fork of 1,000,000 tokens: median %ld us of 11 (%ld to %ld)\n",
              times_us[5],
              times_us.front(),
              times_us.back());
  EXPECT_EQ(disk_->GetStats().bytes.used, before.bytes.used);
  EXPECT_EQ(disk_->GetStats().bytes_written, before.bytes_written);
  EXPECT_EQ(disk_->GetStats().bytes_read, before.bytes_read);
  EXPECT_EQ(disk_->ReadTokens(ContextId{18})->size(), static_cast<size_t>(kTokens));
}

TEST(ForkOf, HasALimitedLineage) {
  ContextManifest manifest = Version(1, 1, 100);
  for (uint64_t id = 2; id < 2 + kLineagePartsMax; ++id) {
    auto fork = ForkOf(manifest, {.source = manifest.id, .id = ContextId{id}, .name = "fork"});
    ASSERT_OK(fork);
    manifest = *fork;
    ++manifest.version;
    manifest.tail = {};
    manifest.num_tokens += 16;
  }
  EXPECT_EQ(manifest.grid_owner(), ContextId{1});
  EXPECT_ERROR(ForkOf(manifest, {.source = manifest.id, .id = ContextId{9999}}),
               ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace varve
