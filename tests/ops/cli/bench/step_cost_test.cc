#include "ops/cli/bench/step_cost.h"

#include <gtest/gtest.h>

namespace varve::cli {
namespace {

// Two layers, the second one with a window of 64.
ModelConfig Config() {
  ModelConfig config;
  config.vocab_size = 1000;
  config.hidden_size = 100;
  config.num_layers = 2;
  config.num_qo_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.ffn_size = 300;
  config.tie_word_embeddings = true;
  config.layers = {{.window = 0}, {.window = 64}};
  return config;
}

constexpr double kLayerParams = 100 * (2 * 128 + 2 * 64) + 3 * 100 * 300;

TEST(StepCost, CountsEveryMatrixOnce) {
  ModelConfig config = Config();
  EXPECT_EQ(StoredParams(config), 2 * kLayerParams + 100'000);
  EXPECT_EQ(StepCost(config, 2, 8).WeightBytes(), 2 * (2 * kLayerParams + 100'000));
  EXPECT_EQ(StepCost(config, 2, 8).DenseFlops(10), 2 * 10 * 2 * kLayerParams);
  config.tie_word_embeddings = false;  // the embedding is stored, and one row of it read
  EXPECT_EQ(StoredParams(config), 2 * kLayerParams + 200'000);
  EXPECT_EQ(StepCost(config, 2, 8).WeightBytes(), 2 * (2 * kLayerParams + 100'000));
}

TEST(StepCost, WindowsBoundWhatIsReadAndComputed) {
  const ModelConfig config = Config();
  const StepCost cost(config, 2, 8);
  EXPECT_EQ(cost.KvBytes(1000), 2 * 64 * (1000 + 64));
  EXPECT_EQ(cost.KvBytes(10), 2 * 64 * (10 + 10));
  EXPECT_EQ(cost.AttentionFlops(1000, 100), 100 * 4 * 128 * (1050 + 64));
  EXPECT_EQ(cost.PrefillFlops(1000, 100), cost.DenseFlops(100) + cost.AttentionFlops(1000, 100));
}

TEST(StepCost, WeightsAreAsTheyAreHeld) {
  const ModelConfig config = Config();
  EXPECT_DOUBLE_EQ(BytesPerWeight(config, 2 * StoredParams(config), "auto"), 2);
  EXPECT_DOUBLE_EQ(BytesPerWeight(config, 2 * StoredParams(config), "int8"), 8.25 / 8);
}

}  // namespace
}  // namespace varve::cli
