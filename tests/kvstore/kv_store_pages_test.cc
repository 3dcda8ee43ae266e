// Sealing, sliding windows, spilling: what kv_store_pages.cc does.
#include <algorithm>
#include <set>

#include "kernels/codec/table_set.h"
#include "kvstore/page_grid.h"
#include "tests/kernels/codec_cases.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kOne{1001};
constexpr SequenceId kTwo{1002};

class KvStorePagesTest : public StoreRig {
 protected:
  std::set<int64_t> Held(int32_t layer, bool sealed) {
    std::set<int64_t> pages;
    for (const KvStore::HeldPage& held : group_->store(0).HeldPages()) {
      if (held.layer == layer && held.sealed == sealed) {
        pages.insert(held.page);
      }
    }
    return pages;
  }
};

TEST_F(KvStorePagesTest, SlidingWindowLayersKeepOnlyWhatTheNextPositionSees) {
  geometry_ = MakeGeometry(2, 8, {0, 16, 40});
  OpenStores();
  ASSERT_OK(group_->OpenSequence(kOne, Private(SmallPolicy())));
  const PageGrid grid(SmallPolicy(), {0, 1}, kOne.value);
  for (int64_t length = 1; length <= 200; ++length) {
    Append(kOne, 5, 1);
    for (int32_t layer = 0; layer < 3; ++layer) {
      std::set<int64_t> sealed;
      std::set<int64_t> unsealed;
      for (int64_t page =
               grid.FirstReachable(length, geometry_.layer_windows[static_cast<size_t>(layer)]);
           page < grid.NumPages(length);
           ++page) {
        (page < grid.SealedEnd(length) ? sealed : unsealed).insert(page);
      }
      ASSERT_EQ(Held(layer, true), sealed) << "layer " << layer << " length " << length;
      ASSERT_EQ(Held(layer, false), unsealed) << "layer " << layer << " length " << length;
    }
    ASSERT_TRUE(Held(1, true).empty()) << "a window no longer than the recent window never seals";
  }
  const WorkerStats stats = group_->store(0).Stats();
  EXPECT_EQ(stats.pages_sealed, 2U * 11U);
  EXPECT_EQ(stats.num_pages, 11 + static_cast<int64_t>(Held(2, true).size()));
}

TEST_F(KvStorePagesTest, PrivateTailsLargerThanTheHostBudgetSpillToScratchAndComeBack) {
  host_budget_ = 48 * kKiB;
  OpenDisk();
  OpenStores();
  ASSERT_OK(group_->OpenSequence(kOne, Private(SmallPolicy())));
  Append(kOne, 5, 3000);  // 190 KiB sealed
  const uint64_t spilled = disk_->GetStats().bytes.used;
  EXPECT_GT(spilled, 100 * kKiB);
  for (int32_t layer = 0; layer < 2; ++layer) {
    ExpectTokens(ReadAll(kOne, layer), 5, layer, 0, 3000);
    group_->ExpectWithinBudget();
  }
  ASSERT_OK(group_->CloseSequence(kOne));
  EXPECT_EQ(disk_->GetStats().bytes.used, 0U);
  EXPECT_EQ(group_->store(0).Stats().num_pages, 0);
}

TEST_F(KvStorePagesTest, PagesOfAColdCodecComeBackFromDiskAsTheyWereSealed) {
  auto tables = std::make_shared<CodecTableSet>();
  for (const CodecId id : {CodecId::kPca, CodecId::kPcaFine}) {
    for (int32_t layer = 0; layer < 2; ++layer) {
      tables->Add(id, layer, *TablesFor(*FindCodec(id).value(), 2, 8));
    }
  }
  geometry_.codec_tables = tables;
  uint64_t context = 7;
  for (const CodecId id : {CodecId::kPca, CodecId::kPcaFine}) {
    OpenDisk();
    OpenStores();
    const KvPolicy policy = SmallPolicy(std::string(FindCodec(id).value()->name()));
    Ingest(context, kOne, 200, policy);
    const Result<std::vector<SeenToken>> sealed = ReadAll(kOne, 1);
    ASSERT_OK(sealed);
    ASSERT_OK(group_->CloseSequence(kOne));
    OpenDisk();
    OpenStores();
    ASSERT_OK(group_->OpenSequence(kTwo, Behind(context, 200)));
    const Result<std::vector<SeenToken>> read = ReadAll(kTwo, 1);
    ASSERT_OK(read);
    ASSERT_EQ(read->size(), 200U);
    size_t coded = 0;
    for (size_t i = 0; i < 200; ++i) {
      const SeenToken& token = (*read)[i];
      ASSERT_EQ(token.position, static_cast<int64_t>(i));
      ASSERT_EQ(token.codec, (*sealed)[i].codec);
      EXPECT_EQ(token.k, (*sealed)[i].k) << i;
      EXPECT_EQ(token.v, (*sealed)[i].v) << i;
      coded += token.codec == id ? 1 : 0;
    }
    EXPECT_EQ(coded, 200U - 4 - 24);  // but for the sinks and the unsealed tail
    ASSERT_OK(group_->CloseSequence(kTwo));
    ++context;
  }
}

TEST_F(KvStorePagesTest, AFullDiskFailsTheStepButNotTheTokens) {
  disk_budget_ = 20 * kKiB;
  OpenDisk();
  OpenStores();
  ASSERT_OK(group_->CreateContext(MakeManifest(7, SmallPolicy())));
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  Result<void> stepped;
  while (stepped) {
    stepped = group_->Step(kOne, 7, 16);
    group_->ExpectWithinBudget();
  }
  EXPECT_ERROR(stepped, ErrorCode::kBudgetExceeded);
  EXPECT_NE(stepped.error().message.find("disk budget of 20.0 KiB"), std::string::npos)
      << stepped.error().message;
  // What could not be sealed is unsealed still: no token is lost, and no version can name the
  // missing page.
  ExpectTokens(ReadAll(kOne, 0), 7, 0, 0, group_->Length(kOne));
  ExpectTokens(ReadAll(kOne, 1), 7, 1, 0, group_->Length(kOne));
  EXPECT_ERROR(group_->Prepare(kOne, Version(7, 1, group_->Length(kOne))),
               ErrorCode::kBudgetExceeded);
  ASSERT_OK(group_->CloseSequence(kOne));
  EXPECT_EQ(disk_->GetStats().bytes.used, 0U);
}

TEST_F(KvStorePagesTest, WindowPagesOfTheCommittedStateStayUntilTheNextCommit) {
  geometry_ = MakeGeometry(2, 8, {0, 40});
  OpenDisk();
  OpenStores();
  Ingest(7, kOne, 100);
  Append(kOne, 7, 200);
  const auto window_pages = [&] {
    std::vector<uint64_t> pages;
    const std::vector<PageKey> keys = disk_->ListLayerPages(ContextId{7}, 1).value();
    for (const PageKey& key : keys) {
      pages.push_back(key.page);
    }
    return pages;
  };
  // Version 1 (100 tokens) reaches pages 3 and 4, the ingest (300 tokens) page 16 and up; between
  // them nothing is kept.
  EXPECT_EQ(window_pages(), (std::vector<uint64_t>{3, 4, 16}));
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 100)));
  ASSERT_OK(group_->Commit(kOne, Version(7, 2, 300)));
  EXPECT_EQ(window_pages(), (std::vector<uint64_t>{3, 4, 16})) << "a request still reads version 1";
  ASSERT_OK(group_->Step(kTwo, 9, 5, [&] {
    const auto seen = group_->Read(kTwo, 1, 100, 104);
    ASSERT_OK(seen);
    EXPECT_EQ(seen->size(), 57U);
    EXPECT_EQ(seen->front().position, 48);
  }));
  EXPECT_ERROR(group_->OpenSequence(SequenceId{1003}, Behind(7, 100)), ErrorCode::kConflict);
  ASSERT_OK(group_->CloseSequence(kTwo));
  EXPECT_EQ(window_pages(), (std::vector<uint64_t>{16}));
}

// What a crash between a commit and its release leaves behind goes at the next start.
TEST_F(KvStorePagesTest, SuperfluousWindowPagesAreDeletedAtRecovery) {
  geometry_ = MakeGeometry(2, 8, {40});
  OpenDisk();
  OpenStores();
  Ingest(7, kOne, 100);
  Append(kOne, 7, 200);
  ASSERT_OK(group_->Prepare(kOne, Version(7, 2, 300)));
  ASSERT_OK(disk_->CommitManifest(Version(7, 2, 300), MakeAppend(100, 300)));
  EXPECT_EQ(disk_->ListPages(ContextId{7})->size(), 3U);
  OpenDisk();
  OpenStores(2);
  EXPECT_EQ(disk_->ListPages(ContextId{7})->size(), 1U);
  EXPECT_TRUE(disk_->GetTails(ContextId{7}, 1)->empty());
}

}  // namespace
}  // namespace varve
