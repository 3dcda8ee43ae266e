// A model whose weights are held in int8: what it predicts, what it holds, and what it refuses.
#include "worker/int8_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "tests/worker/group_rig.h"

namespace varve {
namespace {

using testing::HasSubstr;

LocalWorkerGroupOptions OptionsOf(const std::string& model,
                                  const std::string& weights,
                                  int num_workers) {
  return {.model_dir = GoldenDir(model),
          .weights = weights,
          .num_workers = num_workers,
          .num_threads = 2,
          .host_budget_bytes = uint64_t{64} << 20};
}

std::vector<float> LogitsOf(const LocalWorkerGroupOptions& options, const Golden& golden) {
  GroupRig rig(options);
  return rig.Feed(rig.OpenPrivate(ExactPolicy()), golden.tokens, 32);
}

// Half a step of a weight is about 1 % of a typical one and the errors of a sum are independent:
// the logits of these models of 2 to 8 layers move by 0.5 to 2 % of the largest.
TEST(Int8Weights, PredictNearlyWhatTheStoredOnesDo) {
  for (const char* model : {"llama3_gqa", "qwen2_tied", "gemma2", "smollm3"}) {
    const Golden golden = LoadGolden(model);
    const std::vector<float> stored = LogitsOf(OptionsOf(model, "auto", 1), golden);
    const std::vector<float> int8 = LogitsOf(OptionsOf(model, "int8", 1), golden);
    EXPECT_LT(RelativeDifference(int8, stored), 0.05) << model;
    EXPECT_GT(RelativeDifference(int8, stored), 1e-5) << model;
  }
}

// Slices of rows and columns are views of the same blocks: workers change the order of sums only,
// and where an activation's group is cut, its 16-bit codes.
TEST(Int8Weights, MeanTheSameForEveryNumberOfWorkers) {
  for (const char* model : {"llama3_gqa", "qwen2_tied"}) {
    const Golden golden = LoadGolden(model);
    const std::vector<float> one = LogitsOf(OptionsOf(model, "int8", 1), golden);
    for (const int workers : {2, 3, 8}) {
      EXPECT_LT(RelativeDifference(LogitsOf(OptionsOf(model, "int8", workers), golden), one), 1e-3)
          << model << " " << workers << " workers";
    }
  }
}

TEST(Int8Weights, ReplaceTheStoredOnesExceptForTheEmbedding) {
  for (const char* model : {"llama3_gqa", "qwen2_tied"}) {
    const ModelConfig config = *ParseModelConfig(ReadText(GoldenDir(model) + "/config.json"));
    const ModelWeights stored = *LoadWeights(GoldenDir(model), config);
    ModelWeights weights = *LoadWeights(GoldenDir(model), config);
    ThreadTeam team(2);
    HoldInInt8(weights, team);
    EXPECT_EQ(weights.embedding.blocks, nullptr);
    EXPECT_NE(weights.lm_head.blocks, nullptr);
    EXPECT_NE(weights.layers.back().down.blocks, nullptr);
    uint64_t replaced = 0;
    for (const LayerWeights& layer : stored.layers) {
      for (const WeightView* matrix :
           {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
        replaced += matrix->rows * matrix->cols * DTypeBytes(matrix->dtype);
      }
    }
    if (!config.tie_word_embeddings) {
      replaced += stored.lm_head.rows * stored.lm_head.cols * DTypeBytes(stored.lm_head.dtype);
    }
    EXPECT_EQ(weights.bytes,
              stored.bytes - replaced + weights.blocks.count() * sizeof(WeightBlock));
    EXPECT_NE(weights.model_hash, stored.model_hash);
  }
}

TEST(Int8Weights, AreDescribedAndOtherFormsAreRefused) {
  GroupRig int8(OptionsOf("llama3_gqa", "int8", 2));
  EXPECT_EQ(int8.group().model().weights, "int8");
  const auto refused = LocalWorkerGroup::Open(OptionsOf("llama3_gqa", "int4", 2));
  ASSERT_ERROR(refused, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("weights 'int4'; there are auto"));
}

TEST(Int8Weights, ContextsOfOtherWeightsAreRefused) {
  TempDir data;
  LocalWorkerGroupOptions options = OptionsOf("llama3_gqa", "auto", 1);
  options.data_dir = data.path();
  ContextManifest manifest{.id = {7}, .name = "notes", .policy = ExactPolicy()};
  {
    GroupRig stored(options);
    manifest.model_hash = stored.group().model().model_hash;
    ASSERT_OK(stored.group().CreateContext(manifest));
  }
  options.weights = "int8";
  GroupRig int8(options);
  const Result<void> opened =
      int8.group().OpenSequence({1}, {.base = ContextId{7}, .policy = ExactPolicy()});
  ASSERT_ERROR(opened, ErrorCode::kModelMismatch);
  EXPECT_THAT(opened.error().message, HasSubstr("held in int8 and not as stored"));
}

TEST(FillSequence, MakesASequenceLongerThatStepsGoOnFrom) {
  for (const int workers : {1, 3}) {
    GroupRig rig(OptionsOf("llama3_gqa", "auto", workers));
    const SequenceId sequence = rig.OpenPrivate(ExactPolicy());
    ASSERT_OK(rig.group().FillSequence(sequence, 40, 1));
    EXPECT_EQ(rig.Feed(sequence, std::vector<int32_t>{1, 2, 3}, 3, 40).size(),
              3 * static_cast<size_t>(rig.group().model().vocab_size));
    EXPECT_FALSE(rig.group().FillSequence({99}, 1, 1)) << "not open";
  }
}

}  // namespace
}  // namespace varve
