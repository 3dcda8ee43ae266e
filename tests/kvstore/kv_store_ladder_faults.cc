// Pages on their way down, and what may come between: readers, deletion, failed writes, damage.
// Whatever happens, a page is its old record or its new one.
#include <thread>

#include "tests/kvstore/ladder_rig.h"

namespace varve {
namespace {

class KvStoreLadderFaultTest : public LadderRig {};

// A batch is taken back at every moment of its life: nothing of the context remains.
TEST_F(KvStoreLadderFaultTest, ADeletedContextDoesNotComeBack) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  for (int delay = 0; delay < 6; ++delay) {
    OpenStores(2);
    const uint64_t used = disk_->GetStats().bytes.used;
    Ingest(kContext, kIngest, 3000, Ladder());
    ASSERT_OK(group_->CloseSequence(kIngest));
    for (int i = 0; i <= delay; ++i) {
      group_->store(0).Maintain();
      group_->store(1).Maintain();
      std::this_thread::yield();
    }
    ASSERT_OK(group_->DeleteContext(ContextId{kContext}));
    group_->SettleLadders();
    group_.reset();  // ends the threads
    const auto pages = disk_->ListPages(ContextId{kContext});
    ASSERT_OK(pages);
    EXPECT_TRUE(pages->empty());
    EXPECT_EQ(disk_->GetStats().bytes.used, used);
  }
}

TEST_F(KvStoreLadderFaultTest, AFailedWriteLeavesTheOldRecordsAndIsCounted) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  const ContextUsage before = Usage();
  OpenAsker(2000);
  // A failed flush stops the database: it takes no more writes until it can go on.
  files_->Fail(FaultFileSystem::Fault::kNoSpace);
  EXPECT_FALSE(disk_->CommitManifest(Version(7, 1, 0), {}).has_value());
  while (Failures(DemotionFailure::kWrite) == 0) {
    ASSERT_TRUE(group_->store(0).Maintain());
    std::this_thread::yield();
  }
  EXPECT_EQ(Usage().rungs[2].pages, 0);
  EXPECT_EQ(Usage().disk_bytes, before.disk_bytes);
  CheckContext(kAsker, 2000);
  files_->Fail(FaultFileSystem::Fault::kNone);
  group_->SettleLadders();
  EXPECT_GT(Usage().rungs[2].pages, 0);
  CheckContext(kAsker, 2000);
}

TEST_F(KvStoreLadderFaultTest, ADamagedPageIsNotGivenANewChecksum) {
  host_budget_ = 256 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 2000, Ladder());
  ASSERT_OK(group_->CloseSequence(kIngest));
  const PageKey key{PageKey::Space::kContext, kContext, 0, 0, 3};
  std::vector<std::byte> record = disk_->GetPages({key}).get()->at(0);
  record[record.size() / 2] ^= std::byte{1};
  const std::span<const std::byte> bytes = record;
  group_.reset();
  ASSERT_OK(disk_->PutPages({&key, 1}, {&bytes, 1}));
  OpenStores();
  group_->SettleLadders();
  EXPECT_EQ(Failures(DemotionFailure::kRead), 1U);
  EXPECT_GT(Usage().rungs[2].pages, 0);
  ASSERT_OK(group_->OpenSequence(kAsker, Behind(kContext, 2000)));
  ASSERT_OK(group_->Step(kAsker, kAsker.value, 1));
  EXPECT_ERROR(ReadAll(kAsker, 0), ErrorCode::kPageCorrupt);
  EXPECT_OK(ReadAll(kAsker, 1));
}

// Readers between any two moments of the way down: each page is the old record or the new one.
TEST_F(KvStoreLadderFaultTest, AReaderSeesTheOldOrTheNewRecordWhileAPageGoesDown) {
  device_budget_ = 160 * kKiB;
  host_budget_ = 192 * kKiB;
  OpenDisk();
  OpenStores();
  Ingest(kContext, kIngest, 3000, Ladder());
  OpenAsker(3000);
  bool goes_on = true;
  int reads = 0;
  while (goes_on) {
    goes_on = group_->store(0).Maintain();
    const auto tokens = CheckContext(kAsker, 3000);
    for (const auto& [codec, count] : tokens) {
      // Whole pages, but for the first with its sinks and the tail.
      EXPECT_EQ(codec == CodecId::kInt4 || codec == CodecId::kInt2 ? count % 16 : 0, 0);
    }
    group_->ExpectWithinBudget();
    ++reads;
  }
  EXPECT_GT(reads, 1);
  EXPECT_GT(Usage().rungs[2].pages, 0);
}

}  // namespace
}  // namespace varve
