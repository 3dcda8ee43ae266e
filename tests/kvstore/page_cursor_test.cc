// Reading pages: contexts larger than memory, damage, errors.
#include "kvstore/page_cursor.h"

#include <algorithm>

#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kOne{1001};
constexpr SequenceId kTwo{1002};

class PageCursorTest : public StoreRig {
 protected:
  // A context of 200 tokens whose pages must be read from disk, and a request behind it.
  void OpenColdContext() {
    OpenDisk();
    OpenStores();
    Ingest(7, kOne, 200);
    OpenDisk();
    OpenStores();
    ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 200)));
  }
  PageKey Key(uint64_t page, uint16_t layer = 0) const {
    return PageKey{PageKey::Space::kContext, 7, layer, layer, page};
  }
  std::vector<std::byte> Record(const PageKey& key) {
    return disk_->GetPages({key}).get().value().at(0);
  }
  void Overwrite(const PageKey& key, const std::vector<std::byte>& record) {
    const std::span<const std::byte> bytes = record;
    ASSERT_OK(disk_->PutPages({&key, 1}, {&bytes, 1}));
  }
  uint64_t Failures() const { return group_->store(0).Stats().checksum_failures; }
};

TEST_F(PageCursorTest, AContextTenTimesTheHostBudgetIsWrittenAndRead) {
  host_budget_ = 64 * kKiB;
  OpenDisk();
  OpenStores(1);
  ASSERT_OK(group_->CreateContext(MakeManifest(7, SmallPolicy())));
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  Append(kOne, 7, 10'000);  // 16 tokens of 2 heads of 8 are 0.9 KiB a page and layer
  ASSERT_OK(group_->Commit(kOne, Version(7, 1, 10'000)));
  EXPECT_GT(disk_->GetStats().bytes.used, 10 * host_budget_);
  for (int scan = 0; scan < 2; ++scan) {
    for (int32_t layer = 0; layer < 2; ++layer) {
      auto cursor = group_->store(0).Read(kOne, layer, 9'999, 9'999, nullptr, 0);
      int64_t tokens = 0;
      for (auto views = cursor->Next();; views = cursor->Next()) {
        ASSERT_OK(views);
        group_->ExpectWithinBudget();
        if (views->empty()) {
          break;
        }
        for (const KvView& view : *views) {
          tokens += view.num_tokens;
        }
      }
      EXPECT_EQ(tokens, 10'000);
    }
  }
  ExpectTokens(ReadAll(kOne, 0), 7, 0, 0, 10'000);
}

// A scan larger than the budget must not evict what the next scan could have found.
TEST_F(PageCursorTest, RepeatedScansBeyondTheBudgetFindTheSameResidentPages) {
  host_budget_ = 128 * kKiB;
  OpenDisk();
  OpenStores(1);
  Ingest(7, kOne, 5'000);
  const auto scan = [&] {
    const WorkerStats before = group_->store(0).Stats();
    EXPECT_OK(group_->Read(kOne, 0, 4'999, 4'999));
    EXPECT_OK(group_->Read(kOne, 1, 4'999, 4'999));
    const WorkerStats after = group_->store(0).Stats();
    EXPECT_EQ(after.page_reads_host - before.page_reads_host + after.page_reads_disk -
                  before.page_reads_disk,
              2U * 313U);
    return after.page_reads_host - before.page_reads_host;
  };
  scan();
  const uint64_t hits = scan();
  EXPECT_GE(hits, 50U);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(scan(), hits);
  }
}

TEST_F(PageCursorTest, PagesOfAnIdleContextMakeRoomForOneInUse) {
  host_budget_ = 128 * kKiB;
  OpenDisk();
  OpenStores(1);
  Ingest(7, kOne, 3'000);  // fills the tier
  ASSERT_OK(group_->CloseSequence(kOne));
  Ingest(8, kTwo, 400);
  std::vector<uint64_t> from_disk;  // by step
  for (int step = 0; step < 80; ++step) {
    const uint64_t before = group_->store(0).Stats().page_reads_disk;
    ASSERT_OK(group_->Step(kTwo, 8, 1, [&] {
      EXPECT_OK(group_->Read(kTwo, 0, 400 + step, 400 + step));
      EXPECT_OK(group_->Read(kTwo, 1, 400 + step, 400 + step));
    }));
    from_disk.push_back(group_->store(0).Stats().page_reads_disk - before);
  }
  EXPECT_GT(from_disk.front(), 20U);
  EXPECT_EQ(from_disk.back(), 0U);
}

TEST_F(PageCursorTest, DamageIsRefusedByNameAndCounted) {
  const struct {
    const char* what;
    std::function<void(std::vector<std::byte>&)> damage;
  } cases[] = {
      {"header", [](auto& record) { record[40] ^= std::byte{1}; }},
      {"table", [](auto& record) { record[100] ^= std::byte{1}; }},
      {"payload", [](auto& record) { record[record.size() / 2] ^= std::byte{16}; }},
      {"truncated", [](auto& record) { record.resize(record.size() - 64); }},
      {"tiny", [](auto& record) { record.resize(10); }},
  };
  for (const auto& one : cases) {
    OpenColdContext();
    auto record = Record(Key(3));
    one.damage(record);
    Overwrite(Key(3), record);
    const auto read = ReadAll(kTwo, 0);
    EXPECT_ERROR(read, ErrorCode::kPageCorrupt) << one.what;
    EXPECT_NE(read.error().message.find("context 7 layer 0 page 3"), std::string::npos)
        << read.error().message;
    EXPECT_EQ(Failures(), 1U) << one.what;
    ExpectTokens(ReadAll(kTwo, 1), 7, 1, 0, 200);  // the other layer is whole
    ASSERT_OK(group_->CloseSequence(kTwo));
    ASSERT_OK(group_->DeleteContext(ContextId{7}));
  }
}

TEST_F(PageCursorTest, SwappedRecordsAreCaught) {
  OpenColdContext();
  const auto third = Record(Key(3));
  const auto fourth = Record(Key(4));
  Overwrite(Key(3), fourth);
  Overwrite(Key(4), third);
  const auto read = ReadAll(kTwo, 0);
  EXPECT_ERROR(read, ErrorCode::kPageCorrupt);
  EXPECT_NE(read.error().message.find("the bytes are those of context 7 layer 0 page 4"),
            std::string::npos)
      << read.error().message;
  EXPECT_EQ(Failures(), 1U);
}

TEST_F(PageCursorTest, AMissingPageIsNamed) {
  OpenColdContext();
  const PageKey key = Key(5, 1);
  ASSERT_OK(disk_->DeletePages({&key, 1}));
  const auto read = ReadAll(kTwo, 1);
  EXPECT_ERROR(read, ErrorCode::kPageMissing);
  EXPECT_NE(read.error().message.find("context 7 layer 1 page 5"), std::string::npos)
      << read.error().message;
  EXPECT_EQ(Failures(), 0U);
}

TEST_F(PageCursorTest, PagesOfANewerBuildAreRefusedByName) {
  const std::tuple<size_t, uint16_t, ErrorCode> pokes[] = {
      {8, 2, ErrorCode::kVersionSkew},
      {96 + 48, 99, ErrorCode::kVersionSkew},
      {96 + 4, 4711, ErrorCode::kCodecMismatch},
      {96 + 6, 9, ErrorCode::kCodecMismatch},
  };
  for (const auto& [at, value, code] : pokes) {
    OpenColdContext();
    auto record = Record(Key(3));
    std::memcpy(record.data() + at, &value, sizeof(value));
    ASSERT_TRUE(RewriteChecksum(Key(3), record));
    Overwrite(Key(3), record);
    EXPECT_ERROR(ReadAll(kTwo, 0), code);
    EXPECT_EQ(Failures(), 0U);
    ASSERT_OK(group_->CloseSequence(kTwo));
    ASSERT_OK(group_->DeleteContext(ContextId{7}));
  }
}

TEST_F(PageCursorTest, ReadErrorsReachTheReader) {
  OpenColdContext();
  files_->Fail(FaultFileSystem::Fault::kReadError);
  EXPECT_ERROR(ReadAll(kTwo, 0), ErrorCode::kIoError);
  files_->Fail(FaultFileSystem::Fault::kNone);
  ExpectTokens(ReadAll(kTwo, 0), 7, 0, 0, 200);
}

// A cursor that is given up while its reads are in flight leaves no charge behind.
TEST_F(PageCursorTest, AnAbandonedCursorGivesBackWhatItHeld) {
  host_budget_ = 64 * kKiB;
  OpenColdContext();
  const uint64_t used = group_->store(0).Stats().host.used;
  { auto cursor = group_->store(0).Read(kTwo, 0, 199, 199, nullptr, 0); }
  EXPECT_EQ(group_->store(0).Stats().host.used, used);
}

TEST_F(PageCursorTest, ABudgetThatCannotHoldOnePageIsRefusedByName) {
  OpenColdContext();
  host_budget_ = 6 * kKiB;  // a request and its workspace, but no page beside them
  OpenStores();
  OpenSequenceOptions options = Behind(7, 200);
  ASSERT_OK(group_->OpenSequence(kTwo, options));
  Result<std::vector<SeenToken>> read = ReadAll(kTwo, 0);
  EXPECT_ERROR(read, ErrorCode::kBudgetExceeded);
  EXPECT_NE(read.error().message.find("a page read from disk"), std::string::npos)
      << read.error().message;
}

}  // namespace
}  // namespace varve
