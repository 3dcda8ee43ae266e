// The forward pass against Hugging Face transformers in float32, for every family, layout over
// workers and way of feeding.
#include "worker/forward.h"

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/worker/group_rig.h"

namespace varve {
namespace {

// fp32 on both sides: what is left is the order of sums and, at most, an ulp of cos and sin for
// each layer.
constexpr double kExactTolerance = 1e-4;
// Of the largest logit, with KV in bf16 (2^-9 of each k and v) and in int8 with one scale per token
// and head (1/254 of the largest value). What these errors grow to depends on how sharp attention
// is; random weights with yarn's larger scores are the worst of these models (measured 0.042 and
// 0.076), most stay under 0.015 and 0.03.
constexpr double kBf16Tolerance = 0.06;
constexpr double kInt8Tolerance = 0.10;

constexpr const char* kModels[] = {"llama2_mha",
                                   "llama3_gqa",
                                   "llama_rope_dynamic",
                                   "llama_rope_linear",
                                   "llama_rope_llama3",
                                   "llama_rope_yarn",
                                   "mistral",
                                   "qwen2",
                                   "qwen2_tied",
                                   "qwen3",
                                   "gemma2",
                                   "gemma2_wide",
                                   "gemma3",
                                   "smollm3",
                                   "../../worker/biased_models/llama",
                                   "../../worker/biased_models/qwen3"};
constexpr int kWorkers[] = {1, 2, 3, 8};

class ForwardOfModel : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { golden_ = LoadGolden(GetParam()); }

  double Difference(int num_workers, const KvPolicy& policy, size_t chunk, int num_threads = 2) {
    GroupRig rig(GoldenDir(GetParam()), num_workers, num_threads);
    const std::vector<float> logits = rig.Feed(rig.OpenPrivate(policy), golden_.tokens, chunk);
    const double difference = RelativeDifference(logits, golden_.logits);
    if (std::getenv("VARVE_PRINT_DIFFERENCES") != nullptr) {
      std::cout << GetParam() << " workers " << num_workers << " codec " << policy.codec
                << " chunk " << chunk << ": " << difference << "\n";
    }
    return difference;
  }

  Golden golden_;
};

TEST_P(ForwardOfModel, PrefillInOneStepAgreesWithTransformers) {
  for (const int workers : kWorkers) {
    EXPECT_LE(Difference(workers, ExactPolicy(), golden_.tokens.size()), kExactTolerance)
        << workers << " workers";
  }
}

TEST_P(ForwardOfModel, PrefillInOddChunksAgreesWithTransformers) {
  for (const int workers : kWorkers) {
    for (const size_t chunk : {7, 33}) {
      EXPECT_LE(Difference(workers, ExactPolicy(), chunk), kExactTolerance)
          << workers << " workers, chunk " << chunk;
    }
  }
}

TEST_P(ForwardOfModel, DecodeTokenByTokenAgreesWithTransformers) {
  for (const int workers : kWorkers) {
    EXPECT_LE(Difference(workers, ExactPolicy(), 1), kExactTolerance) << workers << " workers";
  }
}

TEST_P(ForwardOfModel, KvInFewerBitsStaysWithinItsTolerance) {
  for (const int workers : {1, 3}) {
    EXPECT_LE(Difference(workers, PolicyOf("bf16", "bf16"), 16), kBf16Tolerance)
        << workers << " workers";
    EXPECT_LE(Difference(workers, PolicyOf("int8", "bf16"), 16), kInt8Tolerance)
        << workers << " workers";
  }
}

TEST_P(ForwardOfModel, PageSizeDoesNotMatter) {
  for (const int32_t page_tokens : {1, 16, 128}) {
    EXPECT_LE(Difference(3, ExactPolicy(page_tokens), 19), kExactTolerance)
        << page_tokens << " tokens per page";
  }
}

TEST_P(ForwardOfModel, NumberOfThreadsDoesNotMatter) {
  for (const int threads : {1, 3, 8}) {
    EXPECT_LE(Difference(2, ExactPolicy(), 40, threads), kExactTolerance) << threads << " threads";
  }
}

TEST_P(ForwardOfModel, AnyNumberOfWorkersGeneratesTheSameTokens) {
  std::vector<int32_t> expected;
  const std::vector<int32_t> prompt(golden_.tokens.begin(), golden_.tokens.begin() + 20);
  for (const int workers : kWorkers) {
    GroupRig rig(GoldenDir(GetParam()), workers);
    const std::vector<int32_t> tokens = rig.Generate(rig.OpenPrivate(ExactPolicy()), prompt, 24);
    if (expected.empty()) {
      expected = tokens;
    }
    EXPECT_EQ(tokens, expected) << workers << " workers";
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, ForwardOfModel, testing::ValuesIn(kModels));

// A step without logits leaves out what nobody reads of the last layer, but not the queries that a
// token policy judges by.
TEST(Forward, WhatATokenPolicyKeepsDoesNotDependOnWhoWantsLogits) {
  for (const int workers : {1, 3}) {
    SCOPED_TRACE(workers);
    GroupRig rig(GoldenDir("smollm3"), workers);
    KvPolicy policy = ExactPolicy(/*page_tokens=*/8);
    policy.tokens = "h2o";
    policy.keep = 0.3;
    Rng rng(1);
    std::vector<int32_t> tokens(101);
    for (int32_t& token : tokens) {
      token = static_cast<int32_t>(rng.Below(96));
    }
    const SequenceId with_logits = rig.OpenPrivate(policy);
    const std::vector<float> all = rig.Feed(with_logits, tokens, 10);
    const SequenceId without = rig.OpenPrivate(policy);
    for (int64_t first = 0; first < 100; first += 10) {
      rig.StepOne({.sequence = without,
                   .first_position = first,
                   .tokens = {tokens.begin() + first, tokens.begin() + first + 10}});
    }
    const std::vector<float> last =
        rig.Feed(without, std::span<const int32_t>(tokens).last(1), 1, 100);
    EXPECT_LT(RelativeDifference(last, std::span<const float>(all).last(last.size())), 1e-5);
    const SequenceId whole = rig.OpenPrivate(ExactPolicy(/*page_tokens=*/8));
    const std::vector<float> exact = rig.Feed(whole, tokens, 10);
    EXPECT_GT(RelativeDifference(last, std::span<const float>(exact).last(last.size())), 1e-3);
  }
}

}  // namespace
}  // namespace varve
