#include "worker/weights.h"

#include <filesystem>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_files.h"

namespace varve {
namespace {

using nlohmann::json;
using testing::HasSubstr;

ModelConfig ConfigOf(const std::string& name) {
  return *ParseModelConfig(ReadText(GoldenDir(name) + "/config.json"));
}

// A golden's weights with another header: tensors renamed, reshaped or retyped.
class ChangedWeights : public testing::Test {
 protected:
  Result<ModelWeights> Load(const std::function<void(json&)>& change,
                            const std::string& name = "qwen2") {
    const std::string bytes = ReadText(GoldenDir(name) + "/model.safetensors");
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), sizeof(size));
    json header = json::parse(bytes.substr(sizeof(size), size));
    change(header);
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the tensors aligned
    WriteText(directory_.File("model.safetensors"),
              Safetensors(text, bytes.substr(sizeof(size) + size)));
    return LoadWeights(directory_.path(), ConfigOf(name));
  }
  void ExpectRefused(const std::function<void(json&)>& change, const std::string& reason) {
    const Result<ModelWeights> loaded = Load(change);
    ASSERT_ERROR(loaded, ErrorCode::kBadModel);
    EXPECT_THAT(loaded.error().message, HasSubstr(reason));
  }

  static void Rename(json& header, const std::string& from, const std::string& to) {
    header[to] = header[from];
    header.erase(from);
  }

  TempDir directory_;
};

TEST_F(ChangedWeights, UnchangedOnesLoad) {
  const Result<ModelWeights> weights = Load([](json&) {});
  ASSERT_OK(weights);
  const ModelConfig config = ConfigOf("qwen2");
  ASSERT_EQ(weights->layers.size(), static_cast<size_t>(config.num_layers));
  EXPECT_EQ(weights->layers[0].q.rows, static_cast<size_t>(config.num_qo_heads * config.head_dim));
  EXPECT_EQ(weights->layers[0].q_bias.size, weights->layers[0].q.rows);
  EXPECT_EQ(weights->layers[0].o_bias.data, nullptr);
  EXPECT_NE(weights->lm_head.data, weights->embedding.data);
  EXPECT_GT(weights->bytes, 0U);
}

TEST_F(ChangedWeights, NamesWhatIsMissingUnexpectedOrOfAnotherShape) {
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  ExpectRefused([&](json& h) { Rename(h, q, "model.layers.1.self_attn.qkv.weight"); },
                "lack the tensor " + q);
  ExpectRefused(
      [&](json& h) {
        h["extra.weight"] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
      },
      "extra.weight");
  ExpectRefused([&](json& h) { h[q]["shape"] = {h[q]["shape"][0], 16, 2}; }, q + " has shape");
  ExpectRefused([&](json& h) { Rename(h, "lm_head.weight", "lm_head.other"); }, "lm_head.weight");
  ExpectRefused([&](json& h) { h[q]["dtype"] = "I32"; }, q + " holds integers");
}

TEST_F(ChangedWeights, IgnoresStoredRotaryFrequencies) {
  EXPECT_OK(Load([](json& h) {
    h["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
        {"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
  }));
}

TEST_F(ChangedWeights, RefusesTensorsThatAreNotAligned) {
  // An odd header moves every tensor off its alignment; the format asks writers to pad it.
  const std::string bytes = ReadText(GoldenDir("qwen2") + "/model.safetensors");
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof(size));
  WriteText(directory_.File("model.safetensors"),
            Safetensors(bytes.substr(sizeof(size), size) + " ", bytes.substr(sizeof(size) + size)));
  const Result<ModelWeights> loaded = LoadWeights(directory_.path(), ConfigOf("qwen2"));
  ASSERT_ERROR(loaded, ErrorCode::kBadModel);
  EXPECT_THAT(loaded.error().message, HasSubstr("not aligned"));
}

TEST(ModelHash, DependsOnConfigurationAndEveryWeightButNotOnSharding) {
  const ModelConfig config = ConfigOf("llama2_mha");
  const uint64_t hash = LoadWeights(GoldenDir("llama2_mha"), config)->model_hash;
  EXPECT_EQ(LoadWeights(GoldenDir("llama2_mha"), config)->model_hash, hash);

  ModelConfig other = config;
  other.hash ^= 1;
  EXPECT_NE(LoadWeights(GoldenDir("llama2_mha"), other)->model_hash, hash);

  TempDir directory;
  std::string bytes = ReadText(GoldenDir("llama2_mha") + "/model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteText(directory.File("model.safetensors"), bytes);
  EXPECT_NE(LoadWeights(directory.path(), config)->model_hash, hash);

  // Two shards: the first holds one tensor.
  TempDir sharded;
  const Result<SafetensorsModel> whole =
      SafetensorsModel::OpenFile(GoldenDir("llama2_mha") + "/model.safetensors");
  json index = {{"weight_map", json::object()}};
  for (const bool first : {true, false}) {
    json header = json::object();
    std::string data;
    const std::string shard = first ? "1.safetensors" : "2.safetensors";
    for (const auto& [name, tensor] : whole->tensors()) {
      if ((name == "lm_head.weight") == first) {
        header[name] = {{"dtype", "F32"},
                        {"shape", tensor.shape},
                        {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
        data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
        index["weight_map"][name] = shard;
      }
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    WriteText(sharded.File(shard), Safetensors(text, data));
  }
  WriteText(sharded.File("model.safetensors.index.json"), index.dump());
  const Result<ModelWeights> resharded = LoadWeights(sharded.path(), config);
  ASSERT_OK(resharded);
  EXPECT_EQ(resharded->model_hash, hash);
}

TEST(Weights, NameAMissingDirectory) {
  const Result<ModelWeights> loaded = LoadWeights("/nonexistent/model", ConfigOf("qwen2"));
  ASSERT_FALSE(loaded.has_value());
  EXPECT_THAT(loaded.error().message, HasSubstr("/nonexistent/model"));
}

}  // namespace
}  // namespace varve
