#include "kvstore/page_ladder.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve {
namespace {

class PageLadderTest : public testing::Test {
 protected:
  void AddPages(int32_t layer, int64_t count, uint64_t bytes) {
    ASSERT_OK(ladder_.Reserve(memory_, layer, ladder_.num_pages(layer) + count));
    for (int64_t i = 0; i < count; ++i) {
      ladder_.Add(layer, bytes, Rung::kHot);
    }
  }

  MemoryTier memory_{"host", 1 << 20, nullptr};
  PageLadder ladder_{2};
};

TEST_F(PageLadderTest, CountsPagesAndBytesByRung) {
  AddPages(0, 3, 100);
  AddPages(1, 2, 50);
  ladder_.Set(0, 1, 30, Rung::kCold);
  EXPECT_EQ(ladder_.usage()[0].pages, 4);
  EXPECT_EQ(ladder_.usage()[0].bytes, 300U);
  EXPECT_EQ(ladder_.usage()[2].pages, 1);
  EXPECT_EQ(ladder_.usage()[2].bytes, 30U);
  ladder_.Truncate(0, 1);
  EXPECT_EQ(ladder_.usage()[2].pages, 0);
  EXPECT_EQ(ladder_.usage()[0].bytes, 200U);
}

TEST_F(PageLadderTest, EveryPageIsAsImportantAsTheMeanBeforeAnyAttentionWasSeen) {
  AddPages(0, 4, 100);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(ladder_.Importance(0, i), 1.0F);
  }
}

TEST_F(PageLadderTest, ImportanceIsTheShareRelativeToTheMeanAndNewPagesHaveTheMean) {
  AddPages(0, 4, 100);
  ladder_.BeginObservation(0);
  ladder_.Observe(0, 0, 0.5F);
  ladder_.Observe(0, 0, 0.1F);  // another view of the page
  ladder_.Observe(0, 1, 0.2F);
  EXPECT_NEAR(ladder_.Importance(0, 0), 3.0F, 1e-5F);
  EXPECT_NEAR(ladder_.Importance(0, 1), 1.0F, 1e-5F);
  EXPECT_EQ(ladder_.Importance(0, 2), 0.0F);
  AddPages(0, 1, 100);
  EXPECT_NEAR(ladder_.Importance(0, 4), 1.0F, 1e-5F);
  EXPECT_NEAR(ladder_.Importance(0, 0), 3.0F, 1e-5F);
}

TEST_F(PageLadderTest, WhatWasSeenLongAgoCountsHalfForEachHalfLife) {
  AddPages(0, 2, 100);
  ladder_.BeginObservation(0);
  ladder_.Observe(0, 0, 1.0F);
  // So long that the weights are scaled back on the way.
  const auto steps = static_cast<int>(45 * PageLadder::kHalfLifeSteps);
  for (int step = 0; step < steps; ++step) {
    ladder_.BeginObservation(0);
  }
  ladder_.Observe(0, 1, static_cast<float>(std::exp2(-45.0)));
  EXPECT_NEAR(ladder_.Importance(0, 0), ladder_.Importance(0, 1), 1e-3F);
}

TEST_F(PageLadderTest, ItsMemoryIsCountedAndRefusedBeyondTheBudget) {
  AddPages(0, 1000, 100);
  EXPECT_GE(memory_.used(), 1000 * sizeof(LadderPage));
  EXPECT_ERROR(ladder_.Reserve(memory_, 1, 1 << 20), ErrorCode::kBudgetExceeded);
  EXPECT_EQ(ladder_.num_pages(1), 0);
}

}  // namespace
}  // namespace varve
