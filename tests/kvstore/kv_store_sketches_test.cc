// What selective attention may leave out of a context, and what it reads of it.
#include "kvstore/key_sketch.h"
#include "tests/kvstore/selection_rig.h"

namespace varve {
namespace {

class SelectablePagesTest : public PageSelectionTest {
 protected:
  // 400 tokens: pages 0 to 23 are sealed, page 24 is the tail; page 0 has the sinks.
  void OpenSelectively(int64_t base_tokens, int64_t budget_tokens = 0) {
    OpenSequenceOptions options = Asking(base_tokens, 1);
    options.policy = SmallPolicy();
    options.selective = SelectiveAttention{.budget_tokens = budget_tokens};
    ASSERT_OK(group_->OpenSequence(kAsker, options));
    ASSERT_OK(group_->Step(kAsker, 5, 1));
  }
  std::set<int64_t> SelectableOf(int32_t layer) {
    std::set<int64_t> all;
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      for (const int64_t page : group_->store(rank).Selectable(kAsker, layer).pages) {
        EXPECT_TRUE(all.insert(page).second) << page;
      }
    }
    return all;
  }
  static std::set<int64_t> Range(int64_t first, int64_t end) {
    std::set<int64_t> pages;
    for (int64_t page = first; page < end; ++page) {
      pages.insert(page);
    }
    return pages;
  }
};

TEST_F(SelectablePagesTest, AreTheSealedOnesBehindTheSinksAndReadLeavesOutJustThem) {
  for (const int num_workers : {1, 3}) {
    OpenStores(num_workers);
    Ingest(kContext, kIngest, 400, SmallPolicy());
    OpenSelectively(400);
    EXPECT_EQ(SelectableOf(kGlobal), Range(1, 24));
    EXPECT_EQ(SelectableOf(kWindow), Range(0, 0));
    EXPECT_EQ(ReadPages(kAsker, kGlobal, Query(1).data()).value(), (std::set<int64_t>{0, 24, 25}));
    EXPECT_EQ(ReadPages(kAsker, kWindow, Query(1).data()).value(), Range(22, 26));
  }
}

TEST_F(SelectablePagesTest, AreReadAsChosen) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  OpenSelectively(400);
  const auto cursor = group_->store(0).ReadPages(kAsker, kGlobal, {3, 7, 20});
  std::vector<int64_t> pages;
  while (true) {
    const auto views = cursor->Next();
    ASSERT_OK(views);
    if (views->empty()) {
      break;
    }
    ASSERT_EQ(views->size(), cursor->pages().size());
    for (size_t i = 0; i < views->size(); ++i) {
      EXPECT_EQ((*views)[i].first_position, 16 * cursor->pages()[i]);
      pages.push_back(cursor->pages()[i]);
    }
  }
  EXPECT_EQ(pages, (std::vector<int64_t>{3, 7, 20}));
  EXPECT_TRUE(group_->store(0).ReadPages(kAsker, kGlobal, {})->Next()->empty());
}

// The page in which the request begins is read in any case, as far as it is shown.
TEST_F(SelectablePagesTest, EndBeforeThePageInWhichTheRequestBegins) {
  geometry_.layer_windows = {0, 0, 0};
  OpenStores(1);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  OpenSelectively(150);
  EXPECT_EQ(SelectableOf(kGlobal), Range(1, 9));
  EXPECT_EQ(ReadPages(kAsker, kGlobal, Query(1).data()).value(), (std::set<int64_t>{0, 9}));
}

TEST_F(SelectablePagesTest, BudgetIsSharedByTheWorkersAndRoundedUpToPages) {
  OpenStores(3);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  OpenSelectively(400, 100);  // 100 / (3 * 16)
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(group_->store(rank).Selectable(kAsker, kGlobal).budget, 3);
  }
}

TEST_F(SelectablePagesTest, AreEstimatedAlsoAfterARestartAndAfterTheContextGrew) {
  // Numbers of a sketch, as a step asks for them.
  const auto estimate = [&] {
    const std::vector<float> q = Query(17);
    const size_t count = group_->store(0).Selectable(kAsker, kGlobal).pages.size();
    std::vector<float> lse(count * kKvHeads * kGroup);
    AttendScratch scratch;
    ThreadTeam team(1);
    group_->store(0).EstimatePages(
        kAsker, kGlobal, {q.data(), kQueryFloats, 1}, scratch, team, lse.data());
    return lse;
  };
  OpenDisk();
  OpenStores(1);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  OpenSelectively(400);
  const std::vector<float> before = estimate();
  for (const float lse : before) {
    EXPECT_TRUE(std::isfinite(lse));
  }
  OpenDisk();
  OpenStores(1);
  OpenSelectively(400);
  EXPECT_EQ(estimate(), before);
  ASSERT_OK(group_->CloseSequence(kAsker));
  ASSERT_OK(group_->OpenSequence(kIngest, IngestOf(kContext)));
  Append(kIngest, kContext, 200);
  ASSERT_OK(group_->Commit(kIngest, Version(kContext, 2, 600, SmallPolicy())));
  OpenSelectively(600);
  const std::vector<float> after = estimate();
  EXPECT_GT(after.size(), before.size());
  EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
}

TEST_F(SelectablePagesTest, AreSketchedInHostMemoryAlsoWhereThereIsADeviceTier) {
  device_budget_ = kMiB;
  host_budget_ = kMiB;
  OpenDisk();
  OpenStores(1);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  ASSERT_EQ(group_->store(0).Stats().host.used, 0U);  // everything fits the device
  OpenSelectively(400);
  const auto global_layers = static_cast<uint64_t>(
      std::count(geometry_.layer_windows.begin(), geometry_.layer_windows.end(), 0));
  EXPECT_EQ(group_->store(0).Stats().host.used,
            global_layers * KeySketch::kBlockPages *
                KeySketch(geometry_, SmallPolicy().page_tokens).BytesPerPage());
}

TEST_F(SelectablePagesTest, ReadsAndStatedErrorsAddUp) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  OpenSelectively(400);
  KvStore& store = group_->store(0);
  EXPECT_EQ(store.SelectedReads(kAsker), PageReads());
  store.NoteReads(kAsker, {.read = 3, .total = 23});
  store.NoteReads(kAsker, {.error_bound = 0.04F, .missed_mass = 0.5, .num_missed_masses = 4});
  store.NoteReads(kAsker, {.error_bound = 0.02F, .missed_mass = 0.1, .num_missed_masses = 2});
  const PageReads reads = *store.SelectedReads(kAsker);
  EXPECT_EQ(reads.read, 3);
  EXPECT_EQ(reads.total, 23);
  EXPECT_EQ(reads.error_bound, 0.04F);
  EXPECT_DOUBLE_EQ(reads.mean_missed_mass(), 0.1);
  EXPECT_EQ(store.Stats().selective_pages_read, 3U);
}

}  // namespace
}  // namespace varve
