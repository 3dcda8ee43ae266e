// Contexts: commits, snapshots, recovery. What kv_store_contexts.cc does.
#include <algorithm>
#include <map>

#include "kvstore/page_format.h"
#include "proto/base/clock.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kOne{1001};
constexpr SequenceId kTwo{1002};
constexpr SequenceId kThree{1003};

class KvStoreContextsTest : public StoreRig {
 protected:
  // All records of a context as they are on disk.
  std::map<std::string, std::vector<std::byte>> Records(uint64_t id) {
    std::map<std::string, std::vector<std::byte>> records;
    const auto keys = disk_->ListPages(ContextId{id}).value();
    const auto bytes = disk_->GetPages(keys).get().value();
    for (size_t i = 0; i < keys.size(); ++i) {
      records[DescribeKey(keys[i])] = bytes[i];
    }
    return records;
  }
};

TEST_F(KvStoreContextsTest, ASnapshotDoesNotChangeWhileTheIngestGoesOn) {
  OpenDisk();
  OpenStores(2);
  Ingest(7, kOne, 100);
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 100)));
  const auto before = ReadAll(kTwo, 0);
  ASSERT_OK(before);
  Append(kOne, 7, 150);  // seals what was the tail of version 1
  ASSERT_OK(group_->Commit(kOne, Version(7, 2, 250)));
  const auto after = ReadAll(kTwo, 0);
  ASSERT_OK(after);
  ASSERT_EQ(after->size(), before->size());
  for (size_t i = 0; i < after->size(); ++i) {
    EXPECT_EQ((*after)[i].codec, (*before)[i].codec) << i;
    EXPECT_EQ((*after)[i].k, (*before)[i].k) << i;
  }
  EXPECT_EQ((*after)[99].codec, CodecId::kBf16);
  ASSERT_OK(group_->OpenSequence(kThree, Behind(7, 250)));
  EXPECT_EQ((*ReadAll(kThree, 0))[99].codec, CodecId::kInt8);
  EXPECT_FALSE(disk_->GetTails(ContextId{7}, 1)->empty());
  ASSERT_OK(group_->CloseSequence(kTwo));
  EXPECT_TRUE(disk_->GetTails(ContextId{7}, 1)->empty());
}

TEST_F(KvStoreContextsTest, ReopensWithAnotherNumberOfWorkersAndReadsTheSame) {
  geometry_ = MakeGeometry(2, 8, {0, 40});
  std::vector<SeenToken> first;
  OpenDisk();
  OpenStores(3);
  Ingest(7, kOne, 333);
  for (const int workers : {1, 2, 8, 3}) {
    OpenDisk();
    OpenStores(workers);
    ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 333)));
    ASSERT_OK(group_->Step(kTwo, 9, 1));
    const auto seen = group_->Read(kTwo, 0, 333, 333);
    ASSERT_OK(seen);
    ASSERT_EQ(seen->size(), 334U);
    for (size_t i = 0; i < first.size(); ++i) {
      ASSERT_EQ((*seen)[i].k, first[i].k);
      ASSERT_EQ((*seen)[i].v, first[i].v);
      ASSERT_EQ((*seen)[i].codec, first[i].codec);
    }
    first = *seen;
  }
}

TEST_F(KvStoreContextsTest, AnIngestThatIsClosedFallsBackToItsLastCommit) {
  OpenDisk();
  OpenStores(2);
  Ingest(7, kOne, 100);
  const auto committed = Records(7);
  const uint64_t used = disk_->GetStats().bytes.used;
  Append(kOne, 7, 200);
  EXPECT_GT(Records(7).size(), committed.size());
  ASSERT_OK(group_->CloseSequence(kOne));
  EXPECT_EQ(Records(7), committed);
  EXPECT_EQ(disk_->GetStats().bytes.used, used);
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  EXPECT_EQ(group_->Length(kOne), 100);
  ExpectTokens(ReadAll(kOne, 1), 7, 1, 0, 100);
}

// Interrupted, restarted with other workers and gone on, an ingest leaves the same bytes as one
// that was not.
TEST_F(KvStoreContextsTest, AContinuedIngestWritesIdenticalPages) {
  OpenDisk();
  OpenStores(1);
  Ingest(7, kOne, 500);
  const auto whole = Records(7);
  ASSERT_OK(group_->CloseSequence(kOne));
  ASSERT_OK(group_->DeleteContext(ContextId{7}));
  ASSERT_TRUE(Records(7).empty());
  Ingest(7, kOne, 137);
  Append(kOne, 7, 100);  // not committed
  for (const auto& [workers, tokens, version] : {std::tuple(2, 213, 2), std::tuple(3, 150, 3)}) {
    OpenDisk();
    OpenStores(workers);
    ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
    Append(kOne, 7, tokens);
    ASSERT_OK(
        group_->Commit(kOne, Version(7, static_cast<uint64_t>(version), group_->Length(kOne))));
  }
  EXPECT_EQ(group_->Length(kOne), 500);
  EXPECT_EQ(Records(7), whole);
}

TEST_F(KvStoreContextsTest, WithoutADiskAContextLivesAsLongAsTheStore) {
  OpenStores(2);
  Ingest(7, kOne, 100);
  Append(kOne, 7, 60);
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 100)));
  ExpectTokens(ReadAll(kTwo, 0), 7, 0, 0, 100);
  ASSERT_OK(group_->CloseSequence(kOne));
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  EXPECT_EQ(group_->Length(kOne), 100);
  Append(kOne, 7, 60);
  ExpectTokens(ReadAll(kOne, 0), 7, 0, 0, 160);
  EXPECT_ERROR(group_->RecoverContext(Version(8, 1, 10)), ErrorCode::kInvalidArgument);
}

TEST_F(KvStoreContextsTest, CommitsAreRefusedThatDoNotFollow) {
  OpenDisk();
  OpenStores();
  Ingest(7, kOne, 50);
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 50)));
  Append(kOne, 7, 10);
  EXPECT_ERROR(group_->Prepare(kOne, Version(7, 1, 60)),
               ErrorCode::kConflict);  // not a newer version
  EXPECT_ERROR(group_->Prepare(kOne, Version(7, 2, 59)), ErrorCode::kConflict);  // not its length
  EXPECT_ERROR(group_->Prepare(kTwo, Version(7, 2, 60)), ErrorCode::kConflict);  // not the ingest
  EXPECT_ERROR(group_->Prepare(kThree, Version(7, 2, 60)), ErrorCode::kNotFound);
  ContextManifest changed = Version(7, 2, 60);
  changed.policy.sink_tokens = 0;
  EXPECT_ERROR(group_->Prepare(kOne, changed), ErrorCode::kConflict);
  changed = Version(7, 2, 60);
  changed.model_hash = 1;
  EXPECT_ERROR(group_->Prepare(kOne, changed), ErrorCode::kConflict);
  ASSERT_OK(group_->store(0).BeginStep(kOne, 60, 1));
  EXPECT_ERROR(group_->Prepare(kOne, Version(7, 2, 60)), ErrorCode::kConflict);  // in a step
  group_->store(0).AbortStep(kOne);
  EXPECT_ERROR(group_->Finish(Version(7, 1, 50)), ErrorCode::kConflict);
  EXPECT_ERROR(group_->Finish(Version(8, 1, 50)), ErrorCode::kNotFound);
  ASSERT_OK(group_->Commit(kOne, Version(7, 2, 60)));
}

TEST_F(KvStoreContextsTest, ContextsAreRegisteredOnceAndDeletedOnlyWhenUnused) {
  OpenDisk();
  OpenStores(2);
  Ingest(7, kOne, 100);
  EXPECT_ERROR(group_->CreateContext(MakeManifest(7, SmallPolicy())), ErrorCode::kAlreadyExists);
  EXPECT_ERROR(group_->RecoverContext(Version(7, 1, 100)), ErrorCode::kAlreadyExists);
  EXPECT_ERROR(group_->CreateContext(Version(8, 1, 5)), ErrorCode::kInvalidArgument);
  KvPolicy bad = SmallPolicy();
  bad.codec = "none";
  EXPECT_ERROR(group_->CreateContext(MakeManifest(8, bad)), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(group_->DeleteContext(ContextId{8}), ErrorCode::kNotFound);
  EXPECT_ERROR(group_->store(0).GetContextUsage(ContextId{8}), ErrorCode::kNotFound);
  EXPECT_ERROR(group_->DeleteContext(ContextId{7}), ErrorCode::kConflict);
  ASSERT_OK(group_->CloseSequence(kOne));
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 100)));
  EXPECT_ERROR(group_->DeleteContext(ContextId{7}), ErrorCode::kConflict);
  ASSERT_OK(group_->CloseSequence(kTwo));
  ASSERT_OK(group_->DeleteContext(ContextId{7}));
  EXPECT_EQ(disk_->GetStats().bytes.used, 0U);
  EXPECT_TRUE(group_->store(0).HeldPages().empty());
  EXPECT_EQ(group_->store(0).Stats().num_pages, 0);
}

TEST_F(KvStoreContextsTest, AFailedCommitLeavesTheVersionBeforeAndCanBeRepeated) {
  OpenDisk();
  OpenStores(2);
  Ingest(7, kOne, 100);
  Append(kOne, 7, 100);
  files_->Fail(FaultFileSystem::Fault::kNoSpace);
  EXPECT_ERROR(group_->Commit(kOne, Version(7, 2, 200)), ErrorCode::kIoError);
  files_->Fail(FaultFileSystem::Fault::kNone);
  EXPECT_EQ(disk_->ListManifests()->at(0).version, 1U);
  ASSERT_OK(UntilSpaceIsBack([&] { return group_->Commit(kOne, Version(7, 2, 200)); }));
  Append(kOne, 7, 30);
  ASSERT_OK(group_->Commit(kOne, Version(7, 3, 230)));
  OpenDisk();
  OpenStores(3);
  ASSERT_OK(group_->OpenSequence(kTwo, Behind(7, 230)));
  ExpectTokens(ReadAll(kTwo, 1), 7, 1, 0, 230);
}

TEST_F(KvStoreContextsTest, UsageIsWhatTheDiskCounts) {
  geometry_ = MakeGeometry(2, 8, {0, 40, 0});
  for (const int64_t tokens : {5, 40, 333}) {
    OpenDisk();
    OpenStores(3);
    Ingest(7, kOne, tokens);
    ASSERT_OK(group_->CloseSequence(kOne));
    uint64_t disk_bytes = 0;
    uint64_t bf16_bytes = 0;
    int64_t num_pages = 0;
    for (int rank = 0; rank < 3; ++rank) {
      const auto usage = group_->store(rank).GetContextUsage(ContextId{7});
      ASSERT_OK(usage);
      disk_bytes += usage->disk_bytes;
      bf16_bytes += usage->bf16_bytes;
      num_pages += usage->num_pages;
    }
    const auto pages = disk_->ListPages(ContextId{7});
    EXPECT_EQ(static_cast<size_t>(num_pages), pages->size());
    // Text and token records: envelopes of 18 bytes, rows of 45.
    const uint64_t text_bytes = static_cast<uint64_t>(5 * tokens) + 2 * (18 + 45);
    EXPECT_EQ(disk_bytes + text_bytes, disk_->GetStats().bytes.used) << tokens;
    const int64_t window_tokens = tokens - std::max<int64_t>(0, tokens - 39) / 16 * 16;
    EXPECT_EQ(bf16_bytes, static_cast<uint64_t>((2 * tokens + window_tokens) * 2 * 8 * 4));
    ASSERT_OK(group_->DeleteContext(ContextId{7}));
  }
}

// Goal: an ingest writes little more than its pages, everything counted: tails of each commit,
// text, tables, RocksDB's own files and its log. The figures are recorded in the test's XML output.
TEST_F(KvStoreContextsTest, AnIngestWritesItsPagesOnce) {
  constexpr int64_t kTokens = 16'384;
  geometry_ = MakeGeometry(4, 64, {0, 0, 0, 0});
  host_budget_ = 8 * kMiB;
  KvPolicy policy;  // int8, pages of 128
  OpenDisk();
  OpenStores(2);
  ASSERT_OK(group_->CreateContext(MakeManifest(7, policy)));
  ASSERT_OK(group_->OpenSequence(kOne, IngestOf(7)));
  for (uint64_t version = 1; group_->Length(kOne) < kTokens; ++version) {
    for (int step = 0; step < 16; ++step) {
      ASSERT_OK(group_->Step(kOne, 7, 256));
      group_->ExpectWithinBudget();
    }
    ASSERT_OK(group_->Commit(kOne, Version(7, version, group_->Length(kOne), policy)));
  }
  ASSERT_OK(group_->CloseSequence(kOne));
  uint64_t page_bytes = 0;
  for (const auto& [name, record] : Records(7)) {
    page_bytes += record.size();
  }
  OpenDisk();  // everything that closing writes counts too
  const uint64_t written = files_->BytesAppended();
  const uint64_t logged = files_->BytesAppended(FaultFileSystem::FileKind::kLog);
  EXPECT_LE(static_cast<double>(written), 1.2 * static_cast<double>(page_bytes));
  EXPECT_LE(logged, 64 * kKiB) << "page bytes went through the log";
  OpenStores(1);
  ASSERT_OK(group_->OpenSequence(kTwo, [&] {
    OpenSequenceOptions options = Behind(7, kTokens);
    options.policy = policy;
    return options;
  }()));
  const int64_t start_us = SystemClock().NowUs();
  for (int32_t layer = 0; layer < 4; ++layer) {
    auto cursor = group_->store(0).Read(kTwo, layer, kTokens - 1, kTokens - 1, nullptr, 0);
    for (auto views = cursor->Next(); views.has_value() && !views->empty();
         views = cursor->Next()) {
    }
  }
  const int64_t read_us = SystemClock().NowUs() - start_us;
  const uint64_t bytes_read = group_->store(0).Stats().disk_bytes_read;
  EXPECT_GE(bytes_read, page_bytes);
  RecordProperty("page_mib", static_cast<int>(page_bytes / kMiB));
  RecordProperty("write_amplification_percent", static_cast<int>(100 * written / page_bytes));
  RecordProperty("log_bytes", static_cast<int>(logged));
  RecordProperty("read_mib_per_s",
                 static_cast<int>(bytes_read * 1'000'000 / kMiB / static_cast<uint64_t>(read_us)));
}

}  // namespace
}  // namespace varve
