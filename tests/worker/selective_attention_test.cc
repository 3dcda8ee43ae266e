// Selective attention in steps of a model: what it reads, states and is measured to be, beside
// exact attention.
#include "worker/selective_attention.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/group_rig.h"

namespace varve {
namespace {

constexpr int64_t kTokens = 900;
constexpr int32_t kPageTokens = 2;  // so that three workers have many each

std::vector<int32_t> Tokens(uint64_t seed, size_t count) {
  Rng rng(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(rng.Below(96));
  }
  return tokens;
}

struct Answer {
  std::vector<float> logits;
  std::optional<PageReads> reads;
  std::vector<QualitySample> quality;
};

// A model of sliding and global layers with a context of 450 pages.
class SelectiveAttentionTest : public testing::TestWithParam<int> {
 protected:
  SelectiveAttentionTest() : rig_(Options()) {
    KvPolicy policy;
    policy.codec = "int8";
    policy.page_tokens = kPageTokens;
    policy.recent_window_tokens = 8;
    policy.sink_tokens = kPageTokens;
    manifest_ = {
        .id = {7}, .name = "doc", .model_hash = rig_.group().model().model_hash, .policy = policy};
    const std::vector<int32_t> tokens = Tokens(1, kTokens);
    EXPECT_OK(rig_.group().CreateContext(manifest_));
    EXPECT_OK(rig_.group().OpenSequence({1}, {.context = manifest_.id, .policy = policy}));
    rig_.Feed({1}, tokens, 50, 0);
    manifest_.num_tokens = kTokens;
    manifest_.version = 1;
    EXPECT_OK(rig_.group().CommitContext({1}, manifest_, {.tokens = tokens, .text = "t"}));
  }
  static LocalWorkerGroupOptions Options() {
    return {.model_dir = GoldenDir("smollm3"),
            .num_workers = GetParam(),
            .num_threads = 2,
            .host_budget_bytes = uint64_t{256} << 20,
            .quality_share = 1.0};
  }
  // The last logits of a prompt behind the context.
  Answer Ask(const std::vector<int32_t>& prompt, std::optional<SelectiveAttention> selective) {
    const SequenceId sequence{++next_sequence_};
    EXPECT_OK(rig_.group().OpenSequence(sequence,
                                        {.base = manifest_.id,
                                         .base_tokens = kTokens,
                                         .selective = selective,
                                         .policy = manifest_.policy}));
    const StepResult result = *rig_.Step({{.sequence = sequence,
                                           .first_position = kTokens,
                                           .tokens = prompt,
                                           .return_all_logits = true}});
    EXPECT_OK(rig_.group().CloseSequence(sequence));
    const SequenceResult& one = result.results.at(0);
    EXPECT_FALSE(one.error) << one.error->message;
    return {one.logits, one.page_reads, one.quality};
  }

  GroupRig rig_;
  ContextManifest manifest_;
  uint64_t next_sequence_ = 100;
};

TEST_P(SelectiveAttentionTest, WithoutAnErrorAllowedIsExact) {
  const std::vector<int32_t> prompt = Tokens(5, 40);  // more than share one choice
  const Answer exact = Ask(prompt, std::nullopt);
  EXPECT_FALSE(exact.reads);
  EXPECT_TRUE(exact.quality.empty());
  const Answer all = Ask(prompt, SelectiveAttention{.epsilon = 1e-4});
  ASSERT_TRUE(all.reads);
  EXPECT_EQ(all.reads->read, all.reads->total);
  EXPECT_EQ(all.reads->error_bound, 0.0F);
  EXPECT_EQ(all.reads->missed_mass, 0.0);
  ASSERT_EQ(all.logits.size(), exact.logits.size());
  for (size_t i = 0; i < exact.logits.size(); ++i) {
    EXPECT_NEAR(all.logits[i], exact.logits[i], 2e-3) << i;
  }
  ASSERT_FALSE(all.quality.empty());
  for (const QualitySample& sample : all.quality) {
    EXPECT_LT(sample.error, 1e-3);
    EXPECT_NEAR(sample.mass_recall, 1.0, 1e-3);
  }
}

TEST_P(SelectiveAttentionTest, KeepsTheErrorThatItStatesWhileItReadsLess) {
  int exceeded = 0;
  int samples = 0;
  double recall = 0.0;
  int64_t read = 0;
  int64_t total = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const Answer answer =
        Ask(Tokens(seed, 1), SelectiveAttention{.epsilon = 0.4, .delta = 0.05, .seed = seed});
    ASSERT_TRUE(answer.reads && answer.reads->error_bound);
    EXPECT_LE(*answer.reads->error_bound, GetParam() == 1 ? 0.4F : 0.8F);
    read += answer.reads->read;
    total += answer.reads->total;
    for (const QualitySample& sample : answer.quality) {
      exceeded += sample.error > *answer.reads->error_bound ? 1 : 0;
      recall += sample.mass_recall;
      ++samples;
    }
  }
  EXPECT_LT(read, total);
  ASSERT_GE(samples, 40);
  EXPECT_LE(exceeded, 0.05 * samples + 3.7 * std::sqrt(0.05 * samples) + 1);
  EXPECT_LT(recall / samples, 0.99);
  EXPECT_GT(recall / samples, 0.1);
}

TEST_P(SelectiveAttentionTest, ABudgetBoundsWhatIsReadAndTheErrorSaysWhatThatCost) {
  const Answer little =
      Ask(Tokens(3, 1),
          SelectiveAttention{.epsilon = 1e-4, .budget_tokens = int64_t{48} * kPageTokens});
  const Answer more =
      Ask(Tokens(3, 1),
          SelectiveAttention{.epsilon = 1e-4, .budget_tokens = int64_t{160} * kPageTokens});
  // A worker draws no fewer pages than say something of their error.
  const int64_t least = GetParam() * (PageSampler::kFewestDrawn + 2);
  const int64_t layers = little.reads->total / ((kTokens - 8) / kPageTokens - 1);
  EXPECT_LE(little.reads->read, layers * std::max<int64_t>(48 + GetParam(), least));
  EXPECT_LT(little.reads->read, more.reads->read);
  EXPECT_GT(*little.reads->error_bound, *more.reads->error_bound);
  EXPECT_GT(*more.reads->error_bound, 1e-4F);
}

TEST_P(SelectiveAttentionTest, IsTheSameForTheSameSeed) {
  const std::vector<int32_t> prompt = Tokens(8, 5);
  const SelectiveAttention options{.budget_tokens = int64_t{90} * kPageTokens, .seed = 4};
  const Answer once = Ask(prompt, options);
  const Answer again = Ask(prompt, options);
  EXPECT_EQ(once.logits, again.logits);
  EXPECT_EQ(once.reads, again.reads);
  SelectiveAttention other = options;
  other.seed = 5;
  EXPECT_NE(Ask(prompt, other).logits, once.logits);
}

INSTANTIATE_TEST_SUITE_P(Workers, SelectiveAttentionTest, testing::Values(1, 3));

}  // namespace
}  // namespace varve
