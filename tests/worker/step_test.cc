// Steps of several sequences at once, and steps in which something goes wrong on one worker.
#include "worker/step.h"

#include <functional>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/worker/faulty_store.h"
#include "tests/worker/group_rig.h"
#include "worker/local_communicator.h"

namespace varve {
namespace {

// Ranks over faulty stores, without the group around them.
class FaultyGroup {
 public:
  explicit FaultyGroup(int num_workers) : group_(num_workers, 2) {
    config_ = *ParseModelConfig(ReadText(GoldenDir("smollm3") + "/config.json"));
    weights_ = *LoadWeights(GoldenDir("smollm3"), config_);
    for (int32_t rank = 0; rank < num_workers; ++rank) {
      const KvStoreOptions options{.geometry = config_.Geometry(),
                                   .shard = {.rank = rank, .num_workers = num_workers},
                                   .host_budget_bytes = uint64_t{32} << 20};
      stores.push_back(std::make_unique<FaultyStore>(*KvStore::Open(options, nullptr)));
      ranks_.push_back(std::make_unique<Rank>(RankParts{.config = config_,
                                                        .weights = weights_,
                                                        .communicator = group_.communicator(rank),
                                                        .stream = HostStream(),
                                                        .store = *stores.back(),
                                                        .num_threads = 1,
                                                        .max_step_tokens = 64,
                                                        .max_step_sequences = 8}));
    }
  }

  void Open(SequenceId sequence) {
    for (const auto& store : stores) {
      ASSERT_OK(store->OpenSequence(sequence, {.policy = ExactPolicy()}));
    }
  }

  // The results with the errors of all ranks in them.
  std::vector<SequenceResult> Step(const std::vector<SequenceWork>& work) {
    std::vector<const SequenceWork*> pointers;
    for (const SequenceWork& one : work) {
      pointers.push_back(&one);
    }
    const StepJob job{.epoch = {1}, .step = ++step_, .work = pointers};
    std::vector<SequenceResult> results(work.size());
    std::vector<Task> tasks;
    for (const auto& rank : ranks_) {
      tasks.push_back(
          RunStep(*rank, job, rank->is_first() ? std::span(results) : std::span<SequenceResult>()));
    }
    group_.Run(tasks);
    for (size_t i = 0; i < work.size(); ++i) {
      for (const auto& rank : ranks_) {
        if (rank->errors[i] && !results[i].error) {
          results[i].error = rank->errors[i];
        }
      }
    }
    return results;
  }

  std::vector<std::unique_ptr<FaultyStore>> stores;

 private:
  ModelConfig config_;
  ModelWeights weights_;
  LocalGroup group_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  uint64_t step_ = 0;
};

std::vector<int32_t> SomeTokens(uint64_t seed, size_t count) {
  Rng rng(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(rng.Below(96));
  }
  return tokens;
}

SequenceWork Work(uint64_t sequence, int64_t position, std::vector<int32_t> tokens) {
  return {.sequence = {sequence},
          .first_position = position,
          .tokens = std::move(tokens),
          .sample = true,
          .return_all_logits = true};
}

constexpr double kRounding = 1e-5;  // of the largest logit

// Two sequences, the first of which fails in its second step on one worker. The second must not
// notice: its logits are those of a group in which nothing fails.
class StepFault : public testing::TestWithParam<int> {
 protected:
  void Run(const std::function<void(FaultyStore&)>& inject,
           ErrorCode expected,
           int64_t length_after) {
    const int num_workers = GetParam();
    for (int faulty = 0; faulty < num_workers; faulty += std::max(1, num_workers - 1)) {
      SCOPED_TRACE(testing::Message() << "fault on worker " << faulty << " of " << num_workers);
      FaultyGroup group(num_workers);
      FaultyGroup healthy(num_workers);
      for (const uint64_t sequence : {1, 2}) {
        group.Open({sequence});
        healthy.Open({sequence});
      }
      const std::vector<SequenceWork> first = {Work(1, 0, SomeTokens(1, 20)),
                                               Work(2, 0, SomeTokens(2, 13))};
      const std::vector<SequenceWork> second = {Work(1, 20, SomeTokens(3, 9)),
                                                Work(2, 13, SomeTokens(4, 5))};
      const std::vector<SequenceWork> third = {Work(2, 18, SomeTokens(5, 1))};
      EXPECT_FALSE(group.Step(first)[0].error);
      healthy.Step(first);
      inject(*group.stores[static_cast<size_t>(faulty)]);
      const std::vector<SequenceResult> results = group.Step(second);
      const std::vector<SequenceResult> wanted = healthy.Step(second);
      ASSERT_TRUE(results[0].error);
      EXPECT_EQ(results[0].error->code, expected);
      ASSERT_FALSE(results[1].error) << results[1].error->ToString();
      // Not bit for bit: a step of fewer tokens may add up its products in another order.
      EXPECT_LE(RelativeDifference(results[1].logits, wanted[1].logits), kRounding);
      EXPECT_LE(RelativeDifference(group.Step(third)[0].logits, healthy.Step(third)[0].logits),
                kRounding);
      for (int rank = 0; rank < num_workers; ++rank) {
        const int64_t length = group.stores[static_cast<size_t>(rank)]->SequenceLength({1});
        EXPECT_TRUE(length_after < 0 || length == length_after)
            << "worker " << rank << ": " << length;
      }
    }
  }
};

TEST_P(StepFault, NoRoomOnOneWorkerDropsTheSequenceEverywhere) {
  Run([](FaultyStore& store) { store.fail_begin = SequenceId{1}; }, ErrorCode::kBudgetExceeded, 20);
}

TEST_P(StepFault, ACorruptPageFailsItsSequenceOnly) {
  for (const int32_t layer : {0, 2, 3}) {
    Run(
        [layer](FaultyStore& store) {
          store.fail_read = SequenceId{1};
          store.fail_read_layer = layer;
        },
        ErrorCode::kPageCorrupt,
        20);
  }
}

TEST_P(StepFault, ACorruptPageAfterGoodOnesFailsItsSequenceOnly) {
  Run(
      [](FaultyStore& store) {
        store.fail_read = SequenceId{1};
        store.fail_read_late = true;
      },
      ErrorCode::kPageCorrupt,
      20);
}

TEST_P(StepFault, AFailureAtTheEndIsReported) {
  Run([](FaultyStore& store) { store.fail_end = SequenceId{1}; }, ErrorCode::kIoError, -1);
}

INSTANTIATE_TEST_SUITE_P(Workers, StepFault, testing::Values(1, 2, 3, 8));

TEST(Step, AllSequencesFailingLeavesTheGroupUsable) {
  FaultyGroup group(3);
  group.Open({1});
  group.stores[1]->fail_begin = SequenceId{1};
  const std::vector<SequenceWork> work = {Work(1, 0, SomeTokens(1, 4))};
  EXPECT_TRUE(group.Step(work)[0].error);
  EXPECT_EQ(group.stores[0]->aborts, 1);
  EXPECT_EQ(group.stores[1]->aborts, 0) << "what did not begin is not aborted";
  EXPECT_EQ(group.stores[2]->aborts, 1);
  group.stores[1]->fail_begin.reset();
  EXPECT_FALSE(group.Step(work)[0].error);
}

// Sequences of different lengths, prefill and decode mixed, in one step and each alone.
TEST(Step, SequencesInOneStepGetWhatEachWouldGetAlone) {
  for (const char* model : {"llama3_gqa", "gemma2", "smollm3"}) {
    for (const int workers : {1, 3, 8}) {
      SCOPED_TRACE(testing::Message() << model << " on " << workers);
      GroupRig together(GoldenDir(model), workers);
      GroupRig alone(GoldenDir(model), workers);
      constexpr size_t kSequences = 5;
      std::vector<SequenceId> ids;
      std::vector<int64_t> lengths(kSequences, 0);
      for (size_t i = 0; i < kSequences; ++i) {
        ids.push_back(together.OpenPrivate(ExactPolicy()));
        EXPECT_EQ(alone.OpenPrivate(ExactPolicy()), ids.back());
      }
      Rng rng(7);
      for (int round = 0; round < 6; ++round) {
        std::vector<SequenceWork> work;
        for (size_t i = 0; i < kSequences; ++i) {
          if (rng.Below(4) == 0) {
            continue;
          }
          const size_t count = rng.Below(2) == 0 ? 1 : 1 + rng.Below(30);
          work.push_back(Work(ids[i].value, lengths[i], SomeTokens(rng.Next(), count)));
          lengths[i] += static_cast<int64_t>(count);
        }
        const Result<StepResult> result = together.Step(work);
        ASSERT_OK(result);
        for (size_t i = 0; i < work.size(); ++i) {
          ASSERT_FALSE(result->results[i].error);
          EXPECT_EQ(result->results[i].sequence, work[i].sequence);
          const SequenceResult one = alone.StepOne(work[i]);
          EXPECT_LE(RelativeDifference(result->results[i].logits, one.logits), 1e-5);
          EXPECT_EQ(result->results[i].sampled->token, one.sampled->token);
        }
      }
    }
  }
}

// More rows than the logits' buffer takes at once.
TEST(Step, DeliversLogitsOfManyTokensInOrder) {
  const Golden golden = LoadGolden("llama3_gqa");
  ASSERT_GT(golden.tokens.size(), 256U);
  GroupRig rig(GoldenDir("llama3_gqa"), 3);
  const SequenceResult result = rig.StepOne({.sequence = rig.OpenPrivate(ExactPolicy()),
                                             .tokens = golden.tokens,
                                             .sample = true,
                                             .num_top_logprobs = 3,
                                             .return_all_logits = true});
  EXPECT_LE(RelativeDifference(result.logits, golden.logits), 1e-4);
  ASSERT_TRUE(result.sampled);
  const auto last = result.logits.end() - static_cast<std::ptrdiff_t>(golden.vocab);
  EXPECT_EQ(result.sampled->token, std::max_element(last, result.logits.end()) - last);
  EXPECT_EQ(result.top_logprobs.size(), 3U);
}

// Chunks without logits leave out the queries of the last layer: what follows must not notice, and
// a sequence beside them that samples must get its own.
TEST(Step, ChunksWithoutLogitsLeaveTheSameKvBehind) {
  for (const char* model : {"llama3_gqa", "gemma3", "smollm3"}) {
    const Golden golden = LoadGolden(model);
    for (const int workers : {1, 3, 8}) {
      SCOPED_TRACE(testing::Message() << model << " on " << workers);
      GroupRig rig(GoldenDir(model), workers);
      const SequenceId quiet = rig.OpenPrivate(ExactPolicy());
      const SequenceId beside = rig.OpenPrivate(ExactPolicy());
      const auto first = [&](size_t from, size_t to) {
        return std::vector<int32_t>(golden.tokens.begin() + static_cast<std::ptrdiff_t>(from),
                                    golden.tokens.begin() + static_cast<std::ptrdiff_t>(to));
      };
      rig.StepOne({.sequence = quiet, .tokens = first(0, 90)});
      const Result<StepResult> mixed =
          rig.Step({{.sequence = quiet, .first_position = 90, .tokens = first(90, 150)},
                    {.sequence = beside, .tokens = first(0, 40), .return_all_logits = true}});
      ASSERT_OK(mixed);
      const std::span<const float> expected(golden.logits);
      EXPECT_LE(RelativeDifference(mixed->results[1].logits, expected.first(40 * golden.vocab)),
                1e-4);
      EXPECT_TRUE(mixed->results[0].logits.empty());
      const std::vector<float> logits =
          rig.Feed(quiet, std::span(golden.tokens).subspan(150, 100), 33, 150);
      EXPECT_LE(
          RelativeDifference(logits, expected.subspan(150 * golden.vocab, 100 * golden.vocab)),
          1e-4);
    }
  }
}

TEST(Step, GivesNothingThatWasNotAskedFor) {
  GroupRig rig(GoldenDir("llama3_gqa"), 2);
  const SequenceResult result =
      rig.StepOne({.sequence = rig.OpenPrivate(ExactPolicy()), .tokens = {1, 2, 3}});
  EXPECT_FALSE(result.sampled);
  EXPECT_TRUE(result.logits.empty());
}

}  // namespace
}  // namespace varve
