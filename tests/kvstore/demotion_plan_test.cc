#include "kvstore/demotion_plan.h"

#include <algorithm>
#include <memory>
#include <set>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr uint64_t kOverhead = MemoryTier::kRecordOverheadBytes;
constexpr uint64_t kHotBytes = 1000;  // of a page; warm pages have half of them, cold ones a tenth

class DemotionPlanTest : public testing::Test {
 protected:
  // A context of `pages` hot pages in each of two layers.
  LadderContext& Context(int64_t pages,
                         const std::string& warm = "int4",
                         const std::string& cold = "int2") {
    KvPolicy policy;
    policy.codec = "int8";
    policy.warm_codec = warm;
    policy.cold_codec = cold;
    policies_.push_back(std::make_unique<ResolvedPolicy>(
        ResolvedPolicy::Resolve(policy, MakeGeometry(2, 32, {0, 0})).value()));
    ladders_.push_back(std::make_unique<PageLadder>(2));
    for (int32_t layer = 0; layer < 2; ++layer) {
      EXPECT_OK(ladders_.back()->Reserve(memory_, layer, pages));
      for (int64_t i = 0; i < pages; ++i) {
        ladders_.back()->Add(layer, kHotBytes, Rung::kHot);
      }
    }
    contexts_.push_back({.ladder = ladders_.back().get(),
                         .policy = policies_.back().get(),
                         .num_pages = pages,
                         .page_bytes = {kHotBytes, kHotBytes / 2, kHotBytes / 10}});
    return contexts_.back();
  }
  std::vector<Demotion> Plan(const RungBudgets& budgets, size_t num_max = 1000) {
    return PlanDemotions(contexts_, budgets, num_max);
  }
  // As the store does when a batch has landed.
  void Apply(const std::vector<Demotion>& plan) {
    for (const Demotion& demotion : plan) {
      const auto rung = static_cast<size_t>(demotion.rung);
      ladders_[demotion.context]->Set(demotion.layer,
                                      demotion.index,
                                      contexts_[demotion.context].page_bytes[rung],
                                      demotion.rung);
    }
  }
  static uint64_t Hot(uint64_t pages) { return pages * (kHotBytes + kOverhead); }
  static uint64_t Warm(uint64_t pages) { return pages * (kHotBytes / 2 + kOverhead); }

  MemoryTier memory_{"host", 0, nullptr};
  std::vector<std::unique_ptr<ResolvedPolicy>> policies_;
  std::vector<std::unique_ptr<PageLadder>> ladders_;
  std::vector<LadderContext> contexts_;
};

TEST_F(DemotionPlanTest, WhatFitsIsNeverTouched) {
  Context(50);
  EXPECT_TRUE(Plan({.hot = Hot(100), .warm = 0}).empty());
  EXPECT_TRUE(Plan({}).empty());
}

TEST_F(DemotionPlanTest, WhatDoesNotFitGoesDownToTheLowWatermarkAndThenNothingHappens) {
  Context(50);
  const RungBudgets budgets{.hot = Hot(80), .warm = Warm(1000)};
  const auto plan = Plan(budgets);
  EXPECT_EQ(plan.size(), 28U);  // 72 of 100 are nine tenths of 80
  for (const Demotion& demotion : plan) {
    EXPECT_EQ(demotion.rung, Rung::kWarm);
  }
  Apply(plan);
  EXPECT_TRUE(Plan(budgets).empty());
  // A tenth of room is left before anything moves again.
  EXPECT_TRUE(Plan({.hot = Hot(73), .warm = Warm(1000)}).empty());
}

TEST_F(DemotionPlanTest, TheRungsBelowFillUpInTurn) {
  Context(50);
  const auto plan = Plan({.hot = Hot(40), .warm = Warm(20)});
  const auto warm =
      std::count_if(plan.begin(), plan.end(), [](const auto& d) { return d.rung == Rung::kWarm; });
  EXPECT_EQ(warm, 18);
  EXPECT_EQ(plan.size(), 64U);
  EXPECT_EQ(plan[0].rung, Rung::kCold) << "the least important comes first";
}

TEST_F(DemotionPlanTest, WithoutATierBetweenPagesGoToColdAndWithoutColdToWarm) {
  Context(10);
  for (const Demotion& demotion : Plan({.hot = Hot(10), .warm = 0})) {
    EXPECT_EQ(demotion.rung, Rung::kCold);
  }
  contexts_.clear();
  ladders_.clear();
  policies_.clear();
  Context(10, "int4", "");
  const auto plan = Plan({.hot = Hot(10), .warm = 0});
  EXPECT_EQ(plan.size(), 11U);
  for (const Demotion& demotion : plan) {
    EXPECT_EQ(demotion.rung, Rung::kWarm);
  }
}

TEST_F(DemotionPlanTest, WithoutAWarmCodecPagesKeepTheirsInTheTierBetween) {
  Context(10, "", "int2");
  const auto plan = Plan({.hot = Hot(10), .warm = Hot(5)});
  EXPECT_EQ(plan.size(), 20U - 9 - 4);
  for (const Demotion& demotion : plan) {
    EXPECT_EQ(demotion.rung, Rung::kCold);
  }
}

TEST_F(DemotionPlanTest, TheLeastImportantGoFirstAndOfEqualsTheOlder) {
  Context(10);
  ladders_[0]->BeginObservation(0);
  ladders_[0]->BeginObservation(1);
  for (int64_t i = 0; i < 10; ++i) {
    ladders_[0]->Observe(0, i, i == 2 ? 0.5F : 0.01F);
    ladders_[0]->Observe(1, i, 0.1F);
  }
  const auto plan = Plan({.hot = Hot(12), .warm = 0});
  std::set<std::pair<int32_t, int64_t>> down;
  for (const Demotion& demotion : plan) {
    down.emplace(demotion.layer, demotion.index);
  }
  EXPECT_EQ(down.size(), 10U);
  EXPECT_FALSE(down.contains({0, 2}));
  EXPECT_TRUE(down.contains({1, 0}));
  EXPECT_FALSE(down.contains({1, 9}));
}

TEST_F(DemotionPlanTest, SinksAndPinnedContextsStayHot) {
  Context(10).num_sink_pages = 1;
  Context(10).is_pinned = true;
  const auto plan = Plan({.hot = 0, .warm = 0});
  EXPECT_EQ(plan.size(), 18U);
  for (const Demotion& demotion : plan) {
    EXPECT_EQ(demotion.context, 0U);
    EXPECT_GE(demotion.index, 1);
  }
}

TEST_F(DemotionPlanTest, ContextsThatNobodyReadsGoFirst) {
  Context(10);
  Context(10).age = 3.0;
  for (const Demotion& demotion : Plan({.hot = Hot(25), .warm = 0})) {
    EXPECT_EQ(demotion.context, 1U);
  }
}

TEST_F(DemotionPlanTest, APageThatCannotGetSmallerIsLeftAlone) {
  Context(10);
  for (int64_t i = 0; i < 10; ++i) {
    ladders_[0]->MarkLast(0, i);
  }
  for (const Demotion& demotion : Plan({.hot = 0, .warm = 0})) {
    EXPECT_EQ(demotion.layer, 1);
  }
}

TEST_F(DemotionPlanTest, ATierThatIsTooFullMakesPagesColdUntilEnoughIsFreed) {
  Context(50);
  const auto plan = Plan({.excess = 9 * kHotBytes / 10 * 7});
  EXPECT_EQ(plan.size(), 7U);
  for (const Demotion& demotion : plan) {
    EXPECT_EQ(demotion.rung, Rung::kCold);
  }
}

TEST_F(DemotionPlanTest, UncommittedPagesAndMoreThanAskedForStay) {
  Context(10).num_pages = 4;
  EXPECT_EQ(Plan({.hot = 0, .warm = 0}).size(), 8U);
  EXPECT_EQ(Plan({.hot = 0, .warm = 0}, 3).size(), 3U);
}

// Whatever the budgets and the shares: plans that are carried out reach a state in which the hot
// and the warm budget hold, nothing goes up, and no plan follows.
TEST_F(DemotionPlanTest, RandomPlansSettleWithinTheBudgets) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    contexts_.clear();
    ladders_.clear();
    policies_.clear();
    for (uint64_t c = 0; c < 1 + rng.Below(3); ++c) {
      Context(static_cast<int64_t>(1 + rng.Below(40)));
      ladders_.back()->BeginObservation(0);
      for (int64_t i = 0; i < ladders_.back()->num_pages(0); ++i) {
        ladders_.back()->Observe(0, i, static_cast<float>(rng.Below(100)) / 1000.0F);
      }
    }
    const RungBudgets budgets{.hot = Hot(rng.Below(60)), .warm = Warm(rng.Below(60))};
    Apply(Plan(budgets));
    uint64_t hot = 0;
    uint64_t warm = 0;
    for (const auto& ladder : ladders_) {
      hot += Hot(static_cast<uint64_t>(ladder->usage()[0].pages));
      warm += Warm(static_cast<uint64_t>(ladder->usage()[1].pages));
    }
    EXPECT_LE(hot, budgets.hot);
    EXPECT_LE(warm, budgets.warm);
    EXPECT_TRUE(Plan(budgets).empty());
  }
}

}  // namespace
}  // namespace varve
