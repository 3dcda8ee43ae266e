// Requests that read a share of a context's sealed pages: which, how many, and what is always read.
#include "tests/kvstore/selection_rig.h"

namespace varve {
namespace {

// 400 tokens: pages 0 to 23 are sealed, page 24 is the tail.
TEST_F(PageSelectionTest, ARequestReadsThePagesThatItsQueriesChooseOnEachWorker) {
  for (const int num_workers : {1, 3}) {
    OpenStores(num_workers);
    Ingest(kContext, kIngest, 400, Selective(0.3));
    OpenAsker(400, 0.3);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      for (const int32_t layer : {0, 2}) {
        ExpectChoice(24, 0.3, layer, seed);
      }
    }
  }
}

TEST_F(PageSelectionTest, SinksTailAndOwnPagesAreAlwaysRead) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, Selective(0.01));
  OpenAsker(400, 0.01, 60);  // pages 25 and 26 are its own, and sealed
  const auto read = ReadPages(kAsker, kGlobal, Query(3).data());
  ASSERT_OK(read);
  EXPECT_EQ(read->size(), 7U);
  for (const int64_t page : {0, 24, 25, 26, 27, 28}) {
    EXPECT_TRUE(read->contains(page)) << page;
  }
}

TEST_F(PageSelectionTest, WindowLayersAreReadWhole) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, Selective(0.01));
  OpenAsker(400, 0.01);
  const auto read = ReadPages(kAsker, kWindow, Query(3).data());
  ASSERT_OK(read);
  EXPECT_EQ(*read, (std::set<int64_t>{22, 23, 24, 25}));  // of the positions from 361 on
}

TEST_F(PageSelectionTest, AnIngestReadsEverything) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, Selective(0.01));
  ASSERT_OK(group_->Step(kIngest, kContext, 1));
  EXPECT_EQ(ReadPages(kIngest, kGlobal, Query(3).data()).value().size(), 26U);
  EXPECT_EQ(group_->store(0).SelectedReads(kIngest), std::nullopt);
}

TEST_F(PageSelectionTest, AContextThatKeepsAllTokensIsReadWhole) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, SmallPolicy());
  OpenAsker(400, 0.1);  // the request's own policy says nothing about the context
  EXPECT_EQ(ReadPages(kAsker, kGlobal, Query(3).data()).value().size(), 26U);
  EXPECT_EQ(group_->store(0).SelectedReads(kAsker), std::nullopt);
}

TEST_F(PageSelectionTest, ARequestMayWantEveryPage) {
  OpenStores(1);
  Ingest(kContext, kIngest, 400, Selective(0.1));
  OpenSequenceOptions options = Asking(400, 0.1);
  options.reads_every_page = true;
  ASSERT_OK(group_->OpenSequence(kAsker, options));
  ASSERT_OK(group_->Step(kAsker, 5, 1));
  EXPECT_EQ(ReadPages(kAsker, kGlobal, Query(3).data()).value().size(), 26U);
  EXPECT_EQ(group_->store(0).SelectedReads(kAsker), std::nullopt);
}

TEST_F(PageSelectionTest, WhatIsReadIsTheSameTokensAsWithoutTheChoice) {
  OpenStores(2);
  Ingest(kContext, kIngest, 400, Selective(1, "int8"));
  OpenAsker(400, 1);
  const auto read = group_->Read(kAsker, kGlobal, 399, 399);
  ExpectTokens(read, kContext, kGlobal, 0, 400);
  EXPECT_EQ(ReadPages(kAsker, kGlobal, Query(3).data()).value().size(), 26U) << "keep is 1";
}

TEST_F(PageSelectionTest, OnlyChosenPagesAreReadAndBothNumbersAreCounted) {
  OpenStores(2);
  Ingest(kContext, kIngest, 400, Selective(0.25));
  OpenAsker(400, 0.25);
  EXPECT_EQ(group_->store(0).SelectedReads(kAsker), PageReads());
  uint64_t total = 0;
  for (int rank = 0; rank < 2; ++rank) {
    const PageGrid grid(Selective(0.25), {rank, 2}, kContext);
    const int64_t owned = grid.CountOwned(0, 24);
    const int64_t sinks = grid.Owns(0) ? 1 : 0;
    const int64_t want = sinks + (owned - sinks + 3) / 4;
    const uint64_t before = group_->store(rank).Stats().page_reads_host;
    const std::vector<float> q = Query(9);
    auto cursor = group_->store(rank).Read(kAsker, kGlobal, 400, 400, q.data(), kQueryFloats);
    while (!cursor->Next().value().empty()) {
    }
    const WorkerStats stats = group_->store(rank).Stats();
    const int64_t tails = grid.CountOwned(24, 25) + grid.CountOwned(25, 26);
    EXPECT_EQ(stats.page_reads_host - before, static_cast<uint64_t>(want + tails));
    EXPECT_EQ(stats.selective_pages_read, static_cast<uint64_t>(want));
    EXPECT_EQ(stats.selective_pages_total, static_cast<uint64_t>(owned));
    EXPECT_EQ(group_->store(rank).SelectedReads(kAsker), (PageReads{want, owned}));
    total += stats.selective_pages_total;
  }
  EXPECT_EQ(total, 24U);
}

TEST_F(PageSelectionTest, ARequestThatIsOpenDoesNotSeeWhatAnIngestSealsMeanwhile) {
  OpenStores(1);
  Ingest(kContext, kIngest, 200, Selective(0.3));
  OpenAsker(200, 0.3);
  Append(kIngest, kContext, 200);
  ExpectChoice(11, 0.3, kGlobal, 2);
}

// Nothing is pruned: a page can be cut short.
TEST_F(PageSelectionTest, ARequestMayBeginInsideASealedPage) {
  geometry_.layer_windows = {0, 0, 0};
  OpenStores(1);
  Ingest(kContext, kIngest, 400, Selective(0.5));
  OpenAsker(150, 0.5);
  const auto all = group_->Read(kAsker, kGlobal, 149, 149);
  ExpectTokens(all, kContext, kGlobal, 0, 150);
  const std::vector<float> q = Query(4);
  std::set<int64_t> want = ExpectedOf(0, 10, 0.5, kGlobal, q);
  want.insert({0, 9});  // its own first token stands in page 9
  EXPECT_EQ(ReadPages(kAsker, kGlobal, q.data()).value(), want);
}

}  // namespace
}  // namespace varve
