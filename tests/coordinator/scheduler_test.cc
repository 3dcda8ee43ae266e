#include "coordinator/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>

#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

// Builds states; owns the tokens that the runnables point to.
class Board {
 public:
  SchedulerState state;

  void Decode(uint64_t id) { Add(&state.requests, id, 1, 100).decoding = true; }
  void Prompt(uint64_t id, size_t num_tokens) { Add(&state.requests, id, num_tokens, 0); }
  void Ingest(uint64_t id, size_t num_tokens) { Add(&state.ingests, id, num_tokens, 5000); }

 private:
  Runnable& Add(std::vector<Runnable>* list, uint64_t id, size_t num_tokens, int64_t position) {
    tokens_.push_back(std::make_unique<std::vector<int32_t>>(num_tokens, static_cast<int32_t>(id)));
    list->push_back(Runnable{
        .sequence = SequenceId{id}, .position = position, .pending = std::span(*tokens_.back())});
    return list->back();
  }
  std::vector<std::unique_ptr<std::vector<int32_t>>> tokens_;
};

// A machine on which a decode-only step takes `decode_us` and a prompt token adds `token_us`.
StepCost Measured(int num_decodes, double decode_us, double token_us) {
  return StepCost{.decode_step_us = decode_us,
                  .decode_batch = num_decodes,
                  .prefill_token_us = token_us,
                  .steps_since_decode_only = 0};
}

std::map<uint64_t, int64_t> TokensOf(const StepPlan& plan) {
  std::map<uint64_t, int64_t> tokens;
  for (const SequenceWork& work : plan.work) {
    EXPECT_TRUE(tokens.emplace(work.sequence.value, work.tokens.size()).second)
        << "twice in one plan";
  }
  return tokens;
}

TEST(NumToAdmit, IsLimitedByTheRunningAndTheWaiting) {
  const SchedulerLimits limits{.max_running = 4};
  EXPECT_EQ(NumToAdmit(10, 0, limits), 4);
  EXPECT_EQ(NumToAdmit(10, 3, limits), 1);
  EXPECT_EQ(NumToAdmit(2, 0, limits), 2);
  EXPECT_EQ(NumToAdmit(2, 4, limits), 0);
}

TEST(PlanStep, GivesAnIngestAloneTheWholeChunk) {
  Board board;
  board.Ingest(1, 2000);
  const StepPlan plan = PlanStep(board.state, {});
  ASSERT_EQ(plan.work.size(), 1U);
  EXPECT_EQ(plan.work[0].tokens.size(), 512U);
  EXPECT_EQ(plan.work[0].first_position, 5000);
  EXPECT_FALSE(plan.work[0].sample);
}

TEST(PlanStep, IsEmptyWhenNothingIsPending) {
  Board board;
  board.Ingest(1, 0);
  EXPECT_TRUE(PlanStep(board.state, {}).work.empty());
}

TEST(PlanStep, SamplesOnlyWhereThePromptEnds) {
  Board board;
  board.Prompt(1, 600);
  EXPECT_FALSE(PlanStep(board.state, {}).work.at(0).sample);
  Board last;
  last.Prompt(1, 88);
  last.state.requests[0].sampling.seed = 7;
  last.state.requests[0].num_top_logprobs = 3;
  const StepPlan plan = PlanStep(last.state, {});
  EXPECT_TRUE(plan.work.at(0).sample);
  EXPECT_EQ(plan.work.at(0).sampling.seed, 7U);
  EXPECT_EQ(plan.work.at(0).num_top_logprobs, 3);
}

TEST(PlanStep, ServesPromptsFirstComeFirstServed) {
  Board board;
  board.Prompt(1, 400);
  board.Prompt(2, 400);
  board.Prompt(3, 400);
  const auto tokens = TokensOf(PlanStep(board.state, {}));
  EXPECT_EQ(tokens, (std::map<uint64_t, int64_t>{{1, 400}, {2, 112}}));
}

TEST(PlanStep, RunsEveryDecodeInEveryStep) {
  Board board;
  for (uint64_t id = 1; id <= 64; ++id) {
    board.Decode(id);
  }
  board.Ingest(100, 5000);
  board.state.cost = Measured(64, 10000, 100);
  const auto tokens = TokensOf(PlanStep(board.state, {}));
  for (uint64_t id = 1; id <= 64; ++id) {
    EXPECT_EQ(tokens.at(id), 1);
  }
  EXPECT_EQ(tokens.at(100), 100);  // 10 ms to spare at 0.1 ms a token
}

TEST(PlanStep, MeasuresDecodesAloneBeforeItMixes) {
  Board board;
  board.Decode(1);
  board.Ingest(2, 5000);
  EXPECT_EQ(TokensOf(PlanStep(board.state, {})), (std::map<uint64_t, int64_t>{{1, 1}}));
}

TEST(PlanStep, RenewsTheDecodeEstimate) {
  Board board;
  board.Decode(1);
  board.Ingest(2, 5000);
  board.state.cost = Measured(1, 10000, 100);
  board.state.cost.steps_since_decode_only = SchedulerLimits{}.decode_probe_interval;
  EXPECT_EQ(PlanStep(board.state, {}).work.size(), 1U);
  board.state.cost.steps_since_decode_only = 0;
  board.state.cost.decode_batch = 8;  // measured with many more decodes than run now
  EXPECT_EQ(PlanStep(board.state, {}).work.size(), 1U);
  board.state.cost.decode_batch = 2;
  EXPECT_EQ(PlanStep(board.state, {}).work.size(), 2U);
}

TEST(PlanStep, KeepsTheFloorOnASlowMachine) {
  Board board;
  board.Decode(1);
  board.Ingest(2, 5000);
  board.state.cost = Measured(1, 1000, 1e6);
  EXPECT_EQ(TokensOf(PlanStep(board.state, {})).at(2), 16);
}

TEST(PlanStep, DividesARoomyStepAndAlternatesInATightOne) {
  Board board;
  board.Prompt(1, 5000);
  board.Ingest(2, 5000);
  EXPECT_EQ(TokensOf(PlanStep(board.state, {})), (std::map<uint64_t, int64_t>{{1, 384}, {2, 128}}));
  board.Decode(3);
  board.state.cost = Measured(1, 1000, 1e6);
  board.state.step = 2;
  EXPECT_EQ(TokensOf(PlanStep(board.state, {})), (std::map<uint64_t, int64_t>{{1, 16}, {3, 1}}));
  board.state.step = 3;
  EXPECT_EQ(TokensOf(PlanStep(board.state, {})), (std::map<uint64_t, int64_t>{{2, 16}, {3, 1}}));
}

TEST(PlanStep, GivesPromptsWhatAShortIngestLeaves) {
  Board board;
  board.Prompt(1, 5000);
  board.Ingest(2, 10);
  EXPECT_EQ(TokensOf(PlanStep(board.state, {})), (std::map<uint64_t, int64_t>{{1, 502}, {2, 10}}));
}

TEST(StepCost, LearnsBothCosts) {
  StepCost cost;
  for (int i = 0; i < 200; ++i) {
    cost.Record(8, 0, 20000);
    cost.Record(8, 100, 20000 + 100 * 50);
  }
  EXPECT_NEAR(cost.decode_step_us, 20000, 1);
  EXPECT_NEAR(cost.prefill_token_us, 50, 1);
  EXPECT_EQ(cost.steps_since_decode_only, 1);
}

// A machine whose steps take a fixed time, a time per decode and a time per prompt token: runs the
// scheduler against it for many steps with requests and ingests that come at random, and checks
// what must hold in every step.
class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : rng_(seed),
        base_us_(100 + rng_.NextDouble() * 20000),
        decode_us_(rng_.NextDouble() * 2000),
        token_us_(1 + rng_.NextDouble() * 3000) {}

  void Run(int num_steps) {
    for (int64_t& tokens : ingests_) {
      tokens = 1000000;
    }
    for (uint64_t step = 1; step <= static_cast<uint64_t>(num_steps); ++step) {
      Admit();
      OneStep(step);
    }
    EXPECT_EQ(num_admitted_in_order_, next_id_ - 1000 - waiting_.size());
  }

 private:
  struct Request {
    uint64_t id;
    int64_t prompt;
    int64_t answer;
    bool decoding = false;
    int waited = 0;  // steps without a token of its own
  };

  void Admit() {
    if (rng_.Below(4) == 0) {
      waiting_.push_back({next_id_++,
                          static_cast<int64_t>(1 + rng_.Below(1500)),
                          static_cast<int64_t>(1 + rng_.Below(40))});
    }
    for (int n = NumToAdmit(
             static_cast<int>(waiting_.size()), static_cast<int>(running_.size()), limits_);
         n > 0;
         --n) {
      EXPECT_EQ(waiting_.front().id, 1000 + num_admitted_in_order_++);
      running_.push_back(waiting_.front());
      waiting_.erase(waiting_.begin());
    }
    ASSERT_LE(running_.size(), static_cast<size_t>(limits_.max_running));
  }

  void OneStep(uint64_t step) {
    Board board;
    board.state.step = step;
    board.state.cost = cost_;
    for (const Request& request : running_) {
      request.decoding ? board.Decode(request.id)
                       : board.Prompt(request.id, static_cast<size_t>(request.prompt));
    }
    for (size_t i = 0; i < std::size(ingests_); ++i) {
      board.Ingest(i, static_cast<size_t>(std::min<int64_t>(ingests_[i], 2000)));
    }
    const StepPlan plan = PlanStep(board.state, limits_);
    const auto tokens = TokensOf(plan);
    int num_decodes = 0;
    int64_t num_chunk = 0;
    int num_ingest_chunks = 0;
    bool earlier_prompt_unserved = false;
    for (Request& request : running_) {
      const auto it = tokens.find(request.id);
      const int64_t given = it == tokens.end() ? 0 : it->second;
      if (request.decoding) {
        ASSERT_EQ(given, 1) << "a decode was left out";
        ++num_decodes;
        --request.answer;
        continue;
      }
      ASSERT_FALSE(given > 0 && earlier_prompt_unserved) << "a later prompt overtook";
      earlier_prompt_unserved = earlier_prompt_unserved || given < request.prompt;
      request.prompt -= given;
      request.decoding = request.prompt == 0;
      num_chunk += given;
    }
    for (size_t i = 0; i < std::size(ingests_); ++i) {
      const auto it = tokens.find(i);
      steps_without_[i] = it == tokens.end() ? steps_without_[i] + 1 : 0;
      ASSERT_LT(steps_without_[i], 40) << "an ingest starves";
      if (it != tokens.end()) {
        ingests_[i] -= it->second;
        num_chunk += it->second;
        ++num_ingest_chunks;
      }
    }
    CheckBudget(num_decodes, num_chunk);
    ASSERT_LE(num_ingest_chunks, 1);
    const double step_us =
        base_us_ + decode_us_ * num_decodes + token_us_ * static_cast<double>(num_chunk);
    cost_.Record(num_decodes, num_chunk, step_us);
    std::erase_if(running_, [](const Request& r) { return r.decoding && r.answer <= 0; });
  }

  void CheckBudget(int num_decodes, int64_t num_chunk) {
    ASSERT_LE(num_chunk, limits_.max_chunk_tokens);
    if (num_decodes > 0 && num_chunk > limits_.min_chunk_tokens) {
      const double predicted_us =
          cost_.decode_step_us + cost_.prefill_token_us * static_cast<double>(num_chunk);
      ASSERT_LE(predicted_us, limits_.max_slowdown * cost_.decode_step_us * 1.0001);
    }
  }

  Rng rng_;
  double base_us_, decode_us_, token_us_;
  SchedulerLimits limits_;
  StepCost cost_;
  std::vector<Request> waiting_, running_;
  uint64_t next_id_ = 1000;
  uint64_t num_admitted_in_order_ = 0;
  int64_t ingests_[3] = {};
  int steps_without_[3] = {};
};

TEST(SchedulerProperty, BudgetOrderAndProgressHoldOnAnyMachine) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(seed).Run(400);
    if (testing::Test::HasFatalFailure()) {
      return;
    }
  }
}

// The promise of issue and README: 8 streams beside an ingest keep their p99 within 3x of their own
// without it.
TEST(SchedulerProperty, AnIngestCostsEightStreamsLessThanThreeTimes) {
  constexpr double kBaseUs = 18000;
  constexpr double kDecodeUs = 700;
  constexpr double kTokenUs = 1300;
  StepCost cost;
  std::vector<double> step_us;
  int64_t ingested = 0;
  for (uint64_t step = 1; step <= 2000; ++step) {
    Board board;
    board.state.step = step;
    board.state.cost = cost;
    for (uint64_t id = 1; id <= 8; ++id) {
      board.Decode(id);
    }
    board.Ingest(100, 5000);
    const auto tokens = TokensOf(PlanStep(board.state, {}));
    const int64_t chunk = tokens.contains(100) ? tokens.at(100) : 0;
    ingested += chunk;
    step_us.push_back(kBaseUs + 8 * kDecodeUs + static_cast<double>(chunk) * kTokenUs);
    cost.Record(8, chunk, step_us.back());
  }
  std::sort(step_us.begin(), step_us.end());
  const double alone_us = kBaseUs + 8 * kDecodeUs;
  EXPECT_LE(step_us[step_us.size() * 99 / 100], 3 * alone_us);
  EXPECT_GE(ingested, 2000 * 16 * 9 / 10);
}

}  // namespace
}  // namespace varve
