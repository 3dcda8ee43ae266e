#include "kvstore/disk_tier.h"

#include <atomic>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

#include "kvstore/disk_tier_env.h"
#include "kvstore/record_keys.h"
#include "proto/base/file.h"
#include "proto/base/units.h"
#include "tests/kvstore/fault_env.h"
#include "tests/kvstore/kv_support.h"
#include "tests/kvstore/store_rig.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {
namespace {

PageKey Key(uint64_t context,
            uint16_t layer,
            uint64_t page,
            PageKey::Space space = PageKey::Space::kContext) {
  return PageKey{space, context, layer, layer, page};
}

std::vector<std::byte> Bytes(size_t size, int fill) {
  return std::vector<std::byte>(size, static_cast<std::byte>(fill));
}

class DiskTierTest : public ::testing::Test {
 protected:
  DiskTierOptions Options() const {
    DiskTierOptions options;
    options.directory = dir_.path() + "/data";
    options.budget_bytes = budget_bytes_;
    options.memory_bytes = 8 * kMiB;
    return options;
  }
  void Open() {
    tier_.reset();
    auto tier = OpenDiskTier(Options(), MakeEnv(files_));
    ASSERT_OK(tier);
    tier_ = std::move(tier).value();
  }
  Result<void> Put(const PageKey& key, const std::vector<std::byte>& record) {
    const std::span<const std::byte> bytes = record;
    return tier_->PutPages({&key, 1}, {&bytes, 1});
  }
  std::vector<std::byte> Get(const PageKey& key) {
    auto records = tier_->GetPages({key}).get();
    EXPECT_OK(records);
    return records.has_value() ? records->at(0) : std::vector<std::byte>();
  }
  // A context of 8-token pages without a recent window: page p is named from 8 * (p + 1) tokens on.
  ContextManifest Manifest(uint64_t id, uint64_t version, int64_t num_tokens) {
    KvPolicy policy;
    policy.page_tokens = 8;
    policy.recent_window_tokens = 0;
    ContextManifest manifest = MakeManifest(id, policy);
    manifest.version = version;
    manifest.num_tokens = num_tokens;
    manifest.text_bytes = static_cast<uint64_t>(num_tokens);
    return manifest;
  }
  uint64_t Used() const { return tier_->GetStats().bytes.used; }

  TempDir dir_;
  uint64_t budget_bytes_ = 0;
  std::shared_ptr<FaultFileSystem> files_ = std::make_shared<FaultFileSystem>();
  std::unique_ptr<DiskTier> tier_;
};

TEST_F(DiskTierTest, ReadsBatchesInOrderAndMissingRecordsAsEmpty) {
  Open();
  std::vector<PageKey> keys;
  for (uint64_t page = 0; page < 100; ++page) {
    keys.push_back(Key(1, 2, 99 - page));
    if (page % 3 != 0) {
      ASSERT_OK(Put(keys.back(), Bytes(1000 + page, static_cast<int>(page))));
    }
  }
  const auto records = tier_->GetPages(keys).get();
  ASSERT_OK(records);
  for (size_t page = 0; page < 100; ++page) {
    EXPECT_EQ(records->at(page),
              page % 3 != 0 ? Bytes(1000 + page, static_cast<int>(page)) : Bytes(0, 0));
  }
  EXPECT_TRUE(tier_->GetPages({}).get()->empty());
}

TEST_F(DiskTierTest, ASecondOpenIsRefusedTheLock) {
  Open();
  EXPECT_ERROR(DiskTier::Open(Options()), ErrorCode::kDataDirLocked);
  tier_.reset();
  Open();
}

TEST_F(DiskTierTest, RefusesADirectoryOfAnotherFormat) {
  Open();
  tier_.reset();
  const std::string path = Options().directory + "/FORMAT";
  EXPECT_EQ(ReadFile(path).value(), "varve-data 1\n");
  ASSERT_OK(WriteFileAtomically(path, "varve-data 2\n"));
  const auto newer = DiskTier::Open(Options());
  EXPECT_ERROR(newer, ErrorCode::kVersionSkew);
  EXPECT_NE(newer.error().message.find("varve-data 2"), std::string::npos) << newer.error().message;
  std::filesystem::remove(path);
  EXPECT_ERROR(DiskTier::Open(Options()), ErrorCode::kVersionSkew);
}

// Pages fill the memory while commits flush and deletions are reclaimed. Flushes that overlap for
// different reasons end the process in a RocksDB with assertions.
TEST_F(DiskTierTest, CommitsReclaimsAndFullMemoryMayCoincide) {
  Open();
  std::atomic<bool> done{false};
  std::thread committer([&] {
    for (uint64_t version = 1; !done; ++version) {
      ASSERT_OK(tier_->CommitManifest(Manifest(2, version, 0), {}));
    }
  });
  std::vector<PageKey> keys;
  for (uint64_t page = 0; page < 48; ++page) {
    keys.push_back(Key(1, 0, page));
  }
  const std::vector<std::byte> record = Bytes(128 * kKiB, 7);
  for (int round = 0; round < 40; ++round) {
    for (const PageKey& key : keys) {
      ASSERT_OK(Put(key, record));
    }
    ASSERT_OK(tier_->DeletePages(keys));
  }
  done = true;
  committer.join();
  ASSERT_OK(Put(keys[0], record));
  EXPECT_EQ(Get(keys[0]), record);
}

TEST_F(DiskTierTest, RefusesOptionsThatCannotWork) {
  DiskTierOptions options = Options();
  options.num_io_threads = 0;
  EXPECT_ERROR(DiskTier::Open(options), ErrorCode::kInvalidArgument);
  options = Options();
  options.memory_bytes = 1;
  EXPECT_ERROR(DiskTier::Open(options), ErrorCode::kInvalidArgument);
  options = Options();
  ASSERT_OK(WriteFileAtomically(dir_.path() + "/file", "x"));
  options.directory = dir_.path() + "/file/data";
  EXPECT_ERROR(DiskTier::Open(options), ErrorCode::kIoError);
}

TEST_F(DiskTierTest, TheBudgetIsEnforcedBeforeWriting) {
  budget_bytes_ = 10'000;
  Open();
  ASSERT_OK(Put(Key(1, 0, 0), Bytes(9000, 1)));
  const uint64_t used = Used();
  EXPECT_EQ(used, 9000 + kRecordRowBytes);
  const auto refused = Put(Key(1, 0, 1), Bytes(1000, 2));
  EXPECT_ERROR(refused, ErrorCode::kBudgetExceeded);
  EXPECT_NE(refused.error().message.find(
                "disk budget of 9.77 KiB cannot hold 1.02 KiB more: 8.83 KiB are in use"),
            std::string::npos)
      << refused.error().message;
  EXPECT_EQ(Used(), used);
  EXPECT_TRUE(Get(Key(1, 0, 1)).empty());
  ASSERT_OK(Put(Key(1, 0, 0), Bytes(100, 3)));  // replacing frees
  ASSERT_OK(Put(Key(1, 0, 1), Bytes(1000, 2)));
  const PageKey gone[] = {Key(1, 0, 0), Key(1, 0, 7)};
  ASSERT_OK(tier_->DeletePages(gone));
  EXPECT_EQ(Used(), 1000 + kRecordRowBytes);
}

TEST_F(DiskTierTest, WhatNoManifestNamesIsGoneAfterReopening) {
  Open();
  for (uint64_t page = 0; page < 4; ++page) {
    ASSERT_OK(Put(Key(1, 0, page), Bytes(1000, 1)));
    ASSERT_OK(Put(Key(2, 0, page), Bytes(1000, 2)));
  }
  ASSERT_OK(Put(Key(5, 0, 0, PageKey::Space::kScratch), Bytes(1000, 5)));
  ASSERT_OK(tier_->PutTail(ContextId{1}, 1, Key(1, 0, 2), Bytes(700, 1)));
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 20), MakeAppend(0, 20)));
  ASSERT_OK(
      tier_->PutTail(ContextId{1}, 2, Key(1, 0, 3), Bytes(700, 1)));  // prepared, not committed
  Open();
  const auto manifests = tier_->ListManifests();
  ASSERT_OK(manifests);
  ASSERT_EQ(manifests->size(), 1U);
  EXPECT_EQ(manifests->at(0).num_tokens, 20);
  EXPECT_EQ(tier_->ListPages(ContextId{1}).value(),
            (std::vector<PageKey>{Key(1, 0, 0), Key(1, 0, 1)}));
  EXPECT_TRUE(tier_->ListPages(ContextId{2})->empty());
  EXPECT_TRUE(Get(Key(5, 0, 0, PageKey::Space::kScratch)).empty());
  EXPECT_EQ(tier_->GetTails(ContextId{1}, 1)->size(), 1U);
  EXPECT_TRUE(tier_->GetTails(ContextId{1}, 2)->empty());
  const uint64_t text_bytes = 2 * (18 + kRecordRowBytes) + 20 + 80;
  EXPECT_EQ(Used(), 2 * (1000 + kRecordRowBytes) + 700 + kRecordRowBytes + text_bytes);
}

TEST_F(DiskTierTest, TextAndTokensGrowByCommitsAndAreReadBack) {
  Open();
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 10), MakeAppend(0, 10)));
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 2, 2000), MakeAppend(10, 2000)));
  Open();
  EXPECT_EQ(tier_->ReadText(ContextId{1}).value(), MakeAppend(0, 2000).text);
  EXPECT_EQ(tier_->ReadTokens(ContextId{1}).value(), MakeAppend(0, 2000).tokens);
  EXPECT_ERROR(tier_->ReadText(ContextId{9}), ErrorCode::kNotFound);
  ASSERT_OK(
      tier_->CommitManifest(Manifest(1, 3, 3000), MakeAppend(2000, 2500)));  // less than it names
  EXPECT_ERROR(tier_->ReadTokens(ContextId{1}), ErrorCode::kPageMissing);
}

TEST_F(DiskTierTest, TailsAreKeptByVersionUntilDropped) {
  Open();
  for (uint64_t version = 1; version <= 3; ++version) {
    ASSERT_OK(
        tier_->PutTail(ContextId{1}, version, Key(1, 4, 9), Bytes(600, static_cast<int>(version))));
    ASSERT_OK(tier_->CommitManifest(Manifest(1, version, 80), MakeAppend(0, 0)));
  }
  EXPECT_EQ(tier_->GetTails(ContextId{1}, 1)->at(0).second, Bytes(600, 1));
  EXPECT_EQ(tier_->GetTails(ContextId{1}, 1)->at(0).first, Key(1, 4, 9));
  ASSERT_OK(tier_->DropOlderVersions(ContextId{1}, 3));
  EXPECT_TRUE(tier_->GetTails(ContextId{1}, 2)->empty());
  EXPECT_EQ(tier_->GetTailPages(3, {Key(1, 4, 9), Key(1, 4, 10)}).get()->at(0), Bytes(600, 3));
  EXPECT_EQ(tier_->ListManifests()->at(0).version, 3U);
}

TEST_F(DiskTierTest, ListsThePagesOfOneLayer) {
  Open();
  for (uint16_t layer = 0; layer < 3; ++layer) {
    ASSERT_OK(Put(Key(1, layer, 256), Bytes(600, 1)));
    ASSERT_OK(Put(Key(1, layer, 3), Bytes(600, 1)));
    ASSERT_OK(Put(Key(2, layer, 3), Bytes(600, 1)));
  }
  EXPECT_EQ(tier_->ListLayerPages(ContextId{1}, 1).value(),
            (std::vector<PageKey>{Key(1, 1, 3), Key(1, 1, 256)}));
  EXPECT_EQ(tier_->ListPages(ContextId{1})->size(), 6U);
}

TEST_F(DiskTierTest, ReplacesOnlyRecordsThatAreThereAndAreThoseThatWereSeen) {
  Open();
  for (const uint64_t page : {1, 2, 3}) {
    ASSERT_OK(Put(Key(1, 0, page), Bytes(900, 1)));
  }
  ASSERT_OK(tier_->DeletePages(std::vector<PageKey>{Key(1, 0, 2)}));
  const auto smaller = Bytes(600, 2);
  const std::vector<PageKey> keys = {Key(1, 0, 1), Key(1, 0, 2), Key(1, 0, 3)};
  const std::vector<std::span<const std::byte>> records(3, smaller);
  const auto replaced = tier_->ReplacePages(keys, records, std::vector<uint64_t>{900, 900, 899});
  ASSERT_OK(replaced);
  EXPECT_EQ(*replaced, (std::vector<bool>{true, false, false}));
  EXPECT_EQ(Get(keys[0]), smaller);
  EXPECT_TRUE(Get(keys[1]).empty());
  EXPECT_EQ(Get(keys[2]), Bytes(900, 1));
  EXPECT_EQ(Used(), 600 + 900 + 2 * kRecordRowBytes);
}

TEST_F(DiskTierTest, DeletingAContextLeavesNothingAndGivesSpaceBack) {
  Open();
  constexpr uint64_t kPages = 400;
  const auto record = Bytes(64 * kKiB, 7);
  for (uint64_t page = 0; page < kPages; ++page) {
    ASSERT_OK(Put(Key(1 + page % 2, 0, page / 2), record));
  }
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 8 * kPages / 2), MakeAppend(0, 8 * kPages / 2)));
  ASSERT_OK(tier_->CommitManifest(Manifest(2, 1, 8 * kPages / 2), MakeAppend(0, 8 * kPages / 2)));
  const auto disk_bytes = [&] {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(Options().directory)) {
      std::error_code gone;
      const uint64_t size = entry.is_regular_file(gone) ? entry.file_size(gone) : 0;
      bytes += gone ? 0 : size;
    }
    return bytes;
  };
  EXPECT_GT(disk_bytes(), kPages * record.size());
  const uint64_t used_before = Used();
  ASSERT_OK(tier_->DeleteContext(ContextId{1}));
  EXPECT_LT(Used(), used_before / 2 + 100 * kKiB);
  EXPECT_EQ(tier_->ListManifests()->size(), 1U);
  EXPECT_TRUE(tier_->ListPages(ContextId{1})->empty());
  EXPECT_ERROR(tier_->ReadText(ContextId{1}), ErrorCode::kNotFound);
  ASSERT_OK(tier_->DeleteContext(ContextId{2}));
  // Twelve MiB each are less than what starts a reclaim, both are more.
  for (int i = 0; i < 200 && disk_bytes() > 2 * kMiB; ++i) {
    Get(Key(1, 0, 0));  // the reclaim runs on the same threads
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
  }
  EXPECT_LE(disk_bytes(), 2 * kMiB);
  EXPECT_EQ(Used(), 0U);
}

TEST_F(DiskTierTest, ReclaimingKeepsLivePagesWhole) {
  Open();
  const auto record = Bytes(64 * kKiB, 7);
  std::vector<PageKey> dead;
  for (uint64_t page = 0; page < 600; ++page) {
    ASSERT_OK(Put(Key(1, 0, page), record));
    if (page % 4 != 0) {
      dead.push_back(Key(1, 0, page));
    }
  }
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 8 * 600), MakeAppend(0, 8 * 600)));
  ASSERT_OK(tier_->DeletePages(dead));
  Open();  // waits for the reclaim
  for (uint64_t page = 0; page < 600; page += 4) {
    ASSERT_EQ(Get(Key(1, 0, page)), record);
  }
  EXPECT_TRUE(Get(Key(1, 0, 1)).empty());
}

TEST_F(DiskTierTest, AFullFilesystemIsAnErrorAndTheTierGoesOnWhenSpaceComesBack) {
  Open();
  ASSERT_OK(Put(Key(1, 0, 0), Bytes(5000, 1)));
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 8), MakeAppend(0, 8)));
  ASSERT_OK(Put(Key(1, 0, 1), Bytes(5000, 2)));
  files_->Fail(FaultFileSystem::Fault::kNoSpace);
  const auto refused = tier_->CommitManifest(Manifest(1, 2, 16), MakeAppend(8, 16));
  EXPECT_ERROR(refused, ErrorCode::kIoError);
  EXPECT_NE(refused.error().message.find("No space"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find(Options().directory), std::string::npos)
      << refused.error().message;
  EXPECT_EQ(tier_->ListManifests()->at(0).version, 1U);
  files_->Fail(FaultFileSystem::Fault::kNone);
  ASSERT_OK(UntilSpaceIsBack(
      [&] { return tier_->CommitManifest(Manifest(1, 2, 16), MakeAppend(8, 16)); }));
  Open();
  EXPECT_EQ(Get(Key(1, 0, 1)), Bytes(5000, 2));
  EXPECT_EQ(tier_->ReadTokens(ContextId{1})->size(), 16U);
}

TEST_F(DiskTierTest, WriteAndReadErrorsAreNamed) {
  Open();
  ASSERT_OK(Put(Key(1, 0, 0), Bytes(5000, 1)));
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 8), MakeAppend(0, 8)));
  files_->Fail(FaultFileSystem::Fault::kReadError);
  EXPECT_ERROR(tier_->GetPages({Key(1, 0, 0)}).get(), ErrorCode::kIoError);
  files_->Fail(FaultFileSystem::Fault::kWriteError);
  EXPECT_ERROR(tier_->CommitManifest(Manifest(1, 2, 8), MakeAppend(8, 8)), ErrorCode::kIoError);
  EXPECT_ERROR(tier_->DeleteContext(ContextId{1}), ErrorCode::kIoError);
  files_->Fail(FaultFileSystem::Fault::kNone);
  EXPECT_EQ(Get(Key(1, 0, 0)), Bytes(5000, 1));
  // An error in its log is final for RocksDB: until the directory is opened again, it only reads.
  EXPECT_ERROR(Put(Key(1, 0, 1), Bytes(5000, 1)), ErrorCode::kIoError);
  Open();
  EXPECT_EQ(tier_->ListManifests()->at(0).version, 1U);
  EXPECT_EQ(Get(Key(1, 0, 0)), Bytes(5000, 1));
  ASSERT_OK(Put(Key(1, 0, 1), Bytes(5000, 1)));
}

// RocksDB's own files carry checksums. (One that is cut short at a record's end looks like a crash
// and is not told from it.)
TEST_F(DiskTierTest, ADamagedDatabaseIsRefused) {
  Open();
  ASSERT_OK(tier_->CommitManifest(Manifest(1, 1, 8), MakeAppend(0, 8)));
  tier_.reset();
  for (const auto& entry : std::filesystem::directory_iterator(Options().directory + "/db")) {
    if (entry.path().filename().string().starts_with("MANIFEST")) {
      std::string bytes = ReadFile(entry.path()).value();
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      ASSERT_OK(WriteFileAtomically(entry.path(), bytes));
    }
  }
  const auto refused = DiskTier::Open(Options());
  EXPECT_ERROR(refused, ErrorCode::kPageCorrupt);
  EXPECT_NE(refused.error().message.find(Options().directory), std::string::npos);
}

// Page bytes are written once: no log, no copies by compaction. Everything that reaches the files
// counts, the tables and RocksDB's own manifests included.
TEST_F(DiskTierTest, PageBytesAreWrittenOnce) {
  Open();
  const auto record = Bytes(16 * kKiB, 3);
  uint64_t page_bytes = 0;
  for (uint64_t page = 0; page < 3000; ++page) {
    ASSERT_OK(Put(Key(1, static_cast<uint16_t>(page % 4), page / 4), record));
    page_bytes += record.size();
    if (page % 500 == 499) {
      ASSERT_OK(tier_->CommitManifest(Manifest(1, page, static_cast<int64_t>(page) * 2),
                                      MakeAppend(0, 100)));
    }
  }
  const uint64_t stated = tier_->GetStats().file_bytes_written;
  tier_.reset();
  const uint64_t written = files_->BytesAppended();
  EXPECT_NEAR(static_cast<double>(stated), static_cast<double>(written), 0.01 * page_bytes)
      << "what the metric says is what reached the files";
  const uint64_t logged = files_->BytesAppended(FaultFileSystem::FileKind::kLog);
  RecordProperty("write_amplification_percent", static_cast<int>(100 * written / page_bytes));
  EXPECT_GE(written, page_bytes);
  EXPECT_LE(static_cast<double>(written), 1.05 * static_cast<double>(page_bytes));
  EXPECT_LE(logged, 64 * kKiB);
}

}  // namespace
}  // namespace varve
