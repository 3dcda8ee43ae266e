#include "kvstore/memory_tier.h"

#include <gtest/gtest.h>

#include "proto/base/units.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {
namespace {

RecordId Id(uint64_t page, PageKey::Space space = PageKey::Space::kContext) {
  return {PageKey{space, 1, 0, 0, page}, 0};
}

class MemoryTierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    DiskTierOptions options;
    options.directory = dir_.path() + "/data";
    options.memory_bytes = 8 * kMiB;
    options.budget_bytes = 4 * kKiB;
    auto disk = DiskTier::Open(options);
    ASSERT_OK(disk);
    disk_ = std::move(disk).value();
  }

  // Inserts a record of 1000 bytes if there is room under the admission rule.
  bool Add(MemoryTier& tier, const RecordId& id, bool on_disk) {
    auto charge = tier.TryAdmit(1000);
    if (charge) {
      tier.Insert(id, MakePage(std::move(*charge)), on_disk);
    }
    return charge.has_value();
  }
  static std::shared_ptr<ResidentPage> MakePage(MemoryCharge charge) {
    return std::make_shared<ResidentPage>(
        std::vector<std::byte>(1000), PageIdentity(), std::move(charge));
  }

  TempDir dir_;
  std::unique_ptr<DiskTier> disk_;
};

TEST_F(MemoryTierTest, ChargesCountWhileTheyLive) {
  MemoryTier tier("host", 1000, nullptr);
  {
    auto first = tier.Reserve(600, "a test");
    ASSERT_OK(first);
    MemoryCharge moved = std::move(first).value();
    EXPECT_EQ(tier.used(), 600U);
    const auto refused = tier.Reserve(401, "a test");
    EXPECT_ERROR(refused, ErrorCode::kBudgetExceeded);
    EXPECT_NE(refused.error().message.find("1000 B cannot hold 401 B more for a test: 600 B"),
              std::string::npos)
        << refused.error().message;
    EXPECT_ERROR(tier.Reserve(300, "a test", 200), ErrorCode::kBudgetExceeded);
    moved = tier.Reserve(100, "a test").value();
    EXPECT_EQ(tier.used(), 100U);
  }
  EXPECT_EQ(tier.used(), 0U);
}

TEST_F(MemoryTierTest, ReserveDropsTheLeastRecentlyUsedCleanRecord) {
  MemoryTier tier("host", 4000, disk_.get());
  ASSERT_TRUE(Add(tier, Id(1), true));
  ASSERT_TRUE(Add(tier, Id(2), true));
  EXPECT_NE(tier.Find(Id(1)), nullptr);
  const auto charge = tier.Reserve(2500, "a test");
  ASSERT_OK(charge);
  EXPECT_TRUE(tier.Contains(Id(1)));
  EXPECT_FALSE(tier.Contains(Id(2)));
}

TEST_F(MemoryTierTest, RecordsInUseStay) {
  MemoryTier tier("host", 4000, disk_.get());
  ASSERT_TRUE(Add(tier, Id(1), true));
  const auto pinned = tier.Find(Id(1));
  EXPECT_ERROR(tier.Reserve(3500, "a test"), ErrorCode::kBudgetExceeded);
  EXPECT_TRUE(tier.Contains(Id(1)));
}

TEST_F(MemoryTierTest, WithoutADiskNothingIsDropped) {
  MemoryTier tier("host", 4000, nullptr);
  ASSERT_TRUE(Add(tier, Id(1), false));
  EXPECT_ERROR(tier.Reserve(3500, "a test"), ErrorCode::kBudgetExceeded);
  EXPECT_TRUE(tier.Contains(Id(1)));
}

TEST_F(MemoryTierTest, DirtyRecordsAreWrittenToScratchBeforeTheyAreDropped) {
  MemoryTier tier("host", 4000, disk_.get());
  ASSERT_TRUE(Add(tier, Id(1, PageKey::Space::kScratch), false));
  ASSERT_TRUE(Add(tier, Id(2, PageKey::Space::kScratch), false));
  ASSERT_OK(tier.Reserve(3500, "a test"));
  const auto records =
      disk_->GetPages({Id(1, PageKey::Space::kScratch).key, Id(2, PageKey::Space::kScratch).key})
          .get();
  ASSERT_OK(records);
  EXPECT_EQ(records->at(0).size(), 1000U);
  EXPECT_EQ(records->at(1).size(), 1000U);
}

TEST_F(MemoryTierTest, AFullDiskKeepsDirtyRecordsAndRefuses) {
  MemoryTier tier("host", 64 * kKiB, disk_.get());
  for (uint64_t page = 0; page < 8; ++page) {
    ASSERT_TRUE(Add(tier, Id(page, PageKey::Space::kScratch), false));
  }
  const auto refused = tier.Reserve(60 * kKiB, "a test");
  EXPECT_ERROR(refused, ErrorCode::kBudgetExceeded);
  EXPECT_NE(refused.error().message.find("disk budget"), std::string::npos)
      << refused.error().message;
  for (uint64_t page = 0; page < 8; ++page) {
    EXPECT_TRUE(tier.Contains(Id(page, PageKey::Space::kScratch)));
  }
}

TEST_F(MemoryTierTest, AdmissionLeavesAQuarterFreeAndEvictsOnlyIdleRecords) {
  MemoryTier tier("host", 8000, disk_.get());
  uint64_t page = 0;
  while (Add(tier, Id(page), true)) {
    ++page;
  }
  EXPECT_EQ(page, 6U);
  for (uint64_t tick = 0; tick < MemoryTier::kIdleTicks; ++tick) {
    tier.Tick();
    EXPECT_NE(tier.Find(Id(0)), nullptr);
  }
  EXPECT_TRUE(Add(tier, Id(page), true));  // in the place of one that nobody touched meanwhile
  EXPECT_TRUE(tier.Contains(Id(0)));
  EXPECT_FALSE(tier.Contains(Id(1)));
}

TEST_F(MemoryTierTest, ErasesByOwnerAndByVersion) {
  MemoryTier tier("host", 0, disk_.get());
  for (uint64_t version = 0; version < 4; ++version) {
    const RecordId id{PageKey{PageKey::Space::kContext, 9, 0, 0, 5}, version};
    tier.Insert(id, MakePage(MemoryCharge()), true);
  }
  const auto resident = [&] {
    std::vector<uint64_t> versions;
    tier.ForEach([&](const RecordId& id, uint64_t) { versions.push_back(id.tail_version); });
    return versions;
  };
  EXPECT_EQ(resident(), (std::vector<uint64_t>{0, 1, 2, 3}));
  tier.EraseTailsBefore(9, 3, std::vector<uint64_t>{1});
  EXPECT_EQ(resident(), (std::vector<uint64_t>{0, 1, 3}));  // 0 is the sealed page
  EXPECT_EQ(tier.Erase({PageKey{PageKey::Space::kContext, 9, 0, 0, 5}, 3}),
            MemoryTier::Erased::kClean);
  EXPECT_EQ(tier.Erase({PageKey{PageKey::Space::kContext, 9, 0, 0, 5}, 3}),
            MemoryTier::Erased::kAbsent);
  tier.EraseOwner(PageKey::Space::kContext, 9);
  EXPECT_TRUE(resident().empty());
}

// 8000 bytes above 4000: six records there, three below, a quarter of both free.
TEST_F(MemoryTierTest, WhatTheHigherTierLetsGoOfMovesDownIfItIsAdmitted) {
  MemoryTier host("host", 4000, disk_.get());
  MemoryTier device("device", 8000, disk_.get(), &host);
  uint64_t page = 0;
  while (Add(device, Id(page), true)) {
    ++page;
  }
  EXPECT_EQ(page, 9U);
  EXPECT_EQ(device.used(), 6000U);
  EXPECT_EQ(host.used(), 3000U);
  uint64_t visited = 0;
  host.ForEach([&](const RecordId&, uint64_t bytes) { visited += bytes; });
  EXPECT_EQ(visited, 3000U) << "only what is in this tier";
  ASSERT_TRUE(host.Erase(Id(6)) == MemoryTier::Erased::kClean);
  const auto charge = device.Reserve(3500, "a test");
  ASSERT_OK(charge);
  EXPECT_TRUE(device.Contains(Id(0))) << "it moved";
  EXPECT_FALSE(device.Contains(Id(1))) << "there was room for one";
  EXPECT_EQ(host.used(), 3000U);
  const auto refused = device.Reserve(8000, "a test");
  EXPECT_ERROR(refused, ErrorCode::kBudgetExceeded);
  EXPECT_NE(refused.error().message.find("the device budget"), std::string::npos);
}

TEST_F(MemoryTierTest, WhatIsFoundBelowMovesUpWhenThereIsRoom) {
  MemoryTier host("host", 4000, disk_.get());
  MemoryTier device("device", 8000, disk_.get(), &host);
  for (uint64_t page = 0; page < 8; ++page) {
    ASSERT_TRUE(Add(device, Id(page), true));
  }
  const MemoryTier* where = nullptr;
  EXPECT_NE(device.Find(Id(7), &where), nullptr);
  EXPECT_EQ(where, &host);
  EXPECT_EQ(host.used(), 2000U) << "there is no room above";
  ASSERT_TRUE(device.Erase(Id(0)) == MemoryTier::Erased::kClean);
  EXPECT_NE(device.Find(Id(7), &where), nullptr);
  EXPECT_EQ(where, &host);
  EXPECT_EQ(host.used(), 1000U);
  EXPECT_EQ(device.used(), 6000U);
  EXPECT_NE(device.Find(Id(7), &where), nullptr);
  EXPECT_EQ(where, &device);
}

TEST_F(MemoryTierTest, AReadIsKeptWhereItIsAdmitted) {
  MemoryTier host("host", 4000, disk_.get());
  MemoryTier device("device", 8000, disk_.get(), &host);
  for (uint64_t page = 0; page < 7; ++page) {
    ASSERT_TRUE(Add(device, Id(page), true));
  }
  for (uint64_t page = 7; page < 10; ++page) {
    auto charge = device.Reserve(1000, "a read");
    ASSERT_OK(charge);
    device.Offer(Id(page), MakePage(std::move(charge).value()));
  }
  EXPECT_EQ(host.used(), 3000U);
  EXPECT_EQ(device.used(), 6000U) << "its room is for the next reads";
  EXPECT_TRUE(device.Contains(Id(8)));
  EXPECT_FALSE(device.Contains(Id(9)));
}

TEST_F(MemoryTierTest, DirtyRecordsMoveDownDirty) {
  MemoryTier host("host", 8000, disk_.get());
  MemoryTier device("device", 4000, disk_.get(), &host);
  ASSERT_TRUE(Add(device, Id(1, PageKey::Space::kScratch), false));
  ASSERT_OK(device.Reserve(3500, "a test"));
  EXPECT_EQ(host.used(), 1000U);
  EXPECT_EQ(disk_->GetStats().bytes.used, 0U);
  EXPECT_EQ(device.Erase(Id(1, PageKey::Space::kScratch)), MemoryTier::Erased::kDirty);
}

}  // namespace
}  // namespace varve
