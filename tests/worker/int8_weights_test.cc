// A model whose weights are held in int8: what it predicts, what it holds, and what it refuses.
#include "worker/int8_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/ref/reference_int8_matmul.h"
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

// Writes the fp32 golden `model` to `directory` with every matrix replaced by the values that its
// int8 form holds; a tied lm_head becomes one of its own.
void WriteDequantised(const std::string& model, const TempDir& directory) {
  const std::string bytes = ReadText(GoldenDir(model) + "/model.safetensors");
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof(size));
  const auto stored = nlohmann::json::parse(bytes.substr(sizeof(size), size));
  nlohmann::json header;
  std::string data;
  const auto add = [&](const std::string& name, const nlohmann::json& tensor, bool quantised) {
    ASSERT_EQ(tensor.at("dtype"), "F32") << name;
    const std::vector<size_t> offsets = tensor.at("data_offsets");
    std::vector<float> values((offsets[1] - offsets[0]) / sizeof(float));
    std::memcpy(values.data(),
                bytes.data() + sizeof(size) + size + offsets[0],
                values.size() * sizeof(float));
    const std::vector<size_t> shape = tensor.at("shape");
    if (quantised && shape.size() == 2) {
      ThreadTeam team(1);
      WeightBlocks blocks(NumWeightBlocks(shape[0], shape[1]));
      const WeightView view = QuantiseWeights(
          {values.data(), DType::kF32, shape[0], shape[1], shape[1]}, blocks.data(), team);
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = ReferenceInt8Weight(view, i / shape[1], i % shape[1]);
      }
    }
    header[name] = {{"dtype", "F32"},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + values.size() * sizeof(float)}}};
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  };
  for (const auto& [name, tensor] : stored.items()) {
    if (name != "__metadata__") {
      add(name, tensor, name != "model.embed_tokens.weight");
    }
  }
  if (!header.contains("lm_head.weight")) {
    add("lm_head.weight", stored.at("model.embed_tokens.weight"), true);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  WriteText(directory.File("model.safetensors"), Safetensors(text, data));
  nlohmann::json config = GoldenConfig(model);
  config["tie_word_embeddings"] = false;
  WriteText(directory.File("config.json"), config.dump());
}

// The path through the model: what is left are activations of 16 bits and the order of sums.
TEST(Int8Weights, PredictWhatStoredWeightsOfTheSameValuesDo) {
  for (const char* model : {"llama2_mha", "qwen2", "gemma2", "smollm3"}) {
    const TempDir directory;
    WriteDequantised(model, directory);
    LocalWorkerGroupOptions dequantised = OptionsOf(model, "auto", 1);
    dequantised.model_dir = directory.path();
    const Golden golden = LoadGolden(model);
    EXPECT_LT(RelativeDifference(LogitsOf(OptionsOf(model, "int8", 1), golden),
                                 LogitsOf(dequantised, golden)),
              2e-3)
        << model;
  }
}

// Half a step of a weight is about 1 % of a typical one, and the errors of a sum are independent:
// the largest error among the logits of these models of random weights is 2 to 4 % of the largest
// logit.
TEST(Int8Weights, PredictNearlyWhatTheStoredOnesDo) {
  for (const char* model : {"llama2_mha", "llama3_gqa", "gemma3", "mistral"}) {
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
  GroupRig stored(OptionsOf("llama3_gqa", "auto", 1));
  GroupRig int8(OptionsOf("llama3_gqa", "int8", 1));
  const ContextManifest manifest{.id = {7},
                                 .name = "notes",
                                 .model_hash = stored.group().model().model_hash,
                                 .policy = ExactPolicy()};
  const Result<void> made = int8.group().CreateContext(manifest);
  ASSERT_ERROR(made, ErrorCode::kModelMismatch);
  EXPECT_THAT(made.error().message, HasSubstr("held in int8 and not as stored"));
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
