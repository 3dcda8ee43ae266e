#include "worker/model_config.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"
#include "tests/worker/model_files.h"

namespace varve {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Result<ModelConfig> Parse(const json& config) {
  return ParseModelConfig(config.dump());
}

// Changes one field of a golden configuration.
Result<ModelConfig> With(const std::string& name, const std::string& field, const json& value) {
  json config = GoldenConfig(name);
  config[field] = value;
  return Parse(config);
}

void ExpectRefused(const Result<ModelConfig>& result, ErrorCode code, const std::string& name) {
  ASSERT_ERROR(result, code);
  EXPECT_THAT(result.error().message, HasSubstr(name));
}

std::vector<int64_t> Windows(const ModelConfig& config) {
  return config.Geometry().layer_windows;
}

class ModelConfigOfFamily : public testing::TestWithParam<const char*> {};

// transformers 4 and 5 write the same model with different fields; both must mean the same
// computation.
TEST_P(ModelConfigOfFamily, OldAndNewFormatMeanTheSame) {
  const Result<ModelConfig> current = Parse(GoldenConfig(GetParam()));
  const Result<ModelConfig> older = Parse(GoldenConfig(GetParam(), "config_v4.json"));
  ASSERT_OK(current);
  ASSERT_OK(older);
  EXPECT_EQ(current->ropes, older->ropes);
  EXPECT_EQ(Windows(*current), Windows(*older));
  EXPECT_EQ(current->head_dim, older->head_dim);
  EXPECT_EQ(current->num_kv_heads, older->num_kv_heads);
  EXPECT_EQ(current->max_positions, older->max_positions);
  EXPECT_EQ(current->sm_scale, older->sm_scale);
  EXPECT_EQ(current->attn_softcap, older->attn_softcap);
  EXPECT_EQ(current->logit_softcap, older->logit_softcap);
  EXPECT_EQ(current->tie_word_embeddings, older->tie_word_embeddings);
  EXPECT_EQ(current->activation, older->activation);
  for (size_t i = 0; i < current->layers.size(); ++i) {
    EXPECT_EQ(current->layers[i].rope, older->layers[i].rope) << "layer " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Families,
                         ModelConfigOfFamily,
                         testing::Values("llama2_mha",
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
                                         "smollm3"));

// Every field of every family's configuration, set to something that no one understands, is either
// read (and then a wrong type is an error that names it) or known to be harmless; and a field of
// another name is refused by that name.
TEST_P(ModelConfigOfFamily, RefusesAFieldItDoesNotKnowByName) {
  for (const char* field :
       {"quantization_config", "num_experts", "rope_dim", "sliding_window_size", "clip_qkv"}) {
    ExpectRefused(With(GetParam(), field, 7), ErrorCode::kUnsupported, field);
  }
  EXPECT_OK(With(GetParam(), "num_experts", nullptr));
}

TEST_P(ModelConfigOfFamily, NamesFieldsOfTheWrongType) {
  for (const char* field : {"vocab_size",
                            "hidden_size",
                            "intermediate_size",
                            "num_hidden_layers",
                            "num_attention_heads",
                            "num_key_value_heads",
                            "max_position_embeddings",
                            "rms_norm_eps",
                            "tie_word_embeddings",
                            "rope_parameters",
                            "architectures"}) {
    ExpectRefused(With(GetParam(), field, "several"), ErrorCode::kBadModel, field);
  }
  for (const char* field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}) {
    json config = GoldenConfig(GetParam());
    config.erase(field);
    ExpectRefused(Parse(config), ErrorCode::kBadModel, field);
    ExpectRefused(With(GetParam(), field, 0), ErrorCode::kBadModel, field);
    ExpectRefused(With(GetParam(), field, 1e30), ErrorCode::kBadModel, field);
  }
}

TEST(ModelConfig, RefusesWhatIsNotAConfiguration) {
  EXPECT_ERROR(ParseModelConfig("{"), ErrorCode::kBadModel);
  EXPECT_ERROR(ParseModelConfig("[1]"), ErrorCode::kBadModel);
  ExpectRefused(ParseModelConfig("{}"), ErrorCode::kUnsupported, "model_type");
  ExpectRefused(With("llama3_gqa", "model_type", "mixtral"), ErrorCode::kUnsupported, "mixtral");
  ExpectRefused(With("llama3_gqa", "architectures", {"LlamaForSequenceClassification"}),
                ErrorCode::kUnsupported,
                "LlamaForSequenceClassification");
}

TEST(ModelConfig, RefusesUnsupportedValuesByName) {
  struct Case {
    const char* model;
    const char* field;
    json value;
    ErrorCode code;
  };
  const Case cases[] = {
      {"llama3_gqa", "hidden_act", "relu", ErrorCode::kUnsupported},
      {"llama3_gqa", "partial_rotary_factor", 0.5, ErrorCode::kUnsupported},
      {"llama3_gqa", "rope_interleaved", true, ErrorCode::kUnsupported},
      {"llama3_gqa", "is_encoder_decoder", true, ErrorCode::kUnsupported},
      {"llama3_gqa", "sliding_window", 32, ErrorCode::kUnsupported},
      {"llama3_gqa",
       "layer_types",
       json::array({"full_attention", "full_attention"}),
       ErrorCode::kUnsupported},
      {"llama3_gqa", "head_dim", 7, ErrorCode::kUnsupported},
      {"llama3_gqa", "num_key_value_heads", 4, ErrorCode::kBadModel},
      {"mistral", "attention_bias", true, ErrorCode::kUnsupported},
      {"mistral",
       "layer_types",
       json::array({"full_attention", "sliding_attention"}),
       ErrorCode::kUnsupported},
      {"mistral", "sliding_window", 0, ErrorCode::kBadModel},
      {"qwen2", "attention_bias", false, ErrorCode::kUnsupported},
      {"qwen2", "mlp_bias", true, ErrorCode::kUnsupported},
      {"qwen2",
       "layer_types",
       json::array({"full_attention", "sliding_attention"}),
       ErrorCode::kBadModel},
      {"qwen2", "layer_types", json::array({"full_attention"}), ErrorCode::kBadModel},
      {"qwen3",
       "layer_types",
       json::array({"full_attention", "chunked_attention"}),
       ErrorCode::kUnsupported},
      {"gemma2", "use_bidirectional_attention", true, ErrorCode::kUnsupported},
      {"gemma2", "hidden_activation", "gelu", ErrorCode::kUnsupported},
      {"gemma2", "sliding_window", nullptr, ErrorCode::kBadModel},
      {"gemma3",
       "rope_scaling",
       {{"factor", 2.0}, {"rope_type", "linear"}},
       ErrorCode::kUnsupported},
      {"smollm3", "no_rope_layers", json::array({1, 0}), ErrorCode::kBadModel},
      {"smollm3", "no_rope_layers", "all", ErrorCode::kBadModel},
      {"smollm3", "use_sliding_window", false, ErrorCode::kBadModel},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.model) + " " + c.field + " = " + c.value.dump());
    ExpectRefused(With(c.model, c.field, c.value), c.code, c.field);
  }
}

TEST(ModelConfig, RefusesRopeParametersByName) {
  const auto with_rope = [](json rope) {
    return With("llama3_gqa", "rope_parameters", std::move(rope));
  };
  ExpectRefused(with_rope({{"rope_type", "longrope"}}), ErrorCode::kUnsupported, "longrope");
  ExpectRefused(
      with_rope({{"rope_type", "linear"}}), ErrorCode::kBadModel, "rope_parameters.factor");
  ExpectRefused(with_rope({{"rope_type", "linear"}, {"factor", 2}, {"beta_fast", 3}}),
                ErrorCode::kUnsupported,
                "rope_parameters.beta_fast");
  ExpectRefused(with_rope({{"partial_rotary_factor", 0.25}}),
                ErrorCode::kUnsupported,
                "partial_rotary_factor");
  ExpectRefused(with_rope({{"mrope_section", {8, 8}}}), ErrorCode::kUnsupported, "mrope_section");
  ExpectRefused(
      with_rope({{"rope_theta", -1}}), ErrorCode::kBadModel, "rope_parameters.rope_theta");
  ExpectRefused(with_rope({{"rope_type", "llama3"},
                           {"factor", 8},
                           {"low_freq_factor", 4},
                           {"high_freq_factor", 1}}),
                ErrorCode::kBadModel,
                "high_freq_factor");
  ExpectRefused(With("llama3_gqa", "rope_scaling", 3), ErrorCode::kUnsupported, "rope_scaling");
  json both = GoldenConfig("gemma3");
  both["rope_parameters"]["full_attention"] = 3;
  ExpectRefused(Parse(both), ErrorCode::kBadModel, "rope_parameters.full_attention");
  both["rope_parameters"] = {{"other_attention", json::object()}};
  ExpectRefused(Parse(both), ErrorCode::kUnsupported, "rope_parameters.other_attention");
}

TEST(ModelConfig, DynamicRopeEndsAtTheOriginalLengthAndSaysWhy) {
  const Result<ModelConfig> config = Parse(GoldenConfig("llama_rope_dynamic"));
  ASSERT_OK(config);
  EXPECT_EQ(config->max_positions, 256);
  EXPECT_THAT(config->max_positions_because, HasSubstr("dynamic"));
  json shorter = GoldenConfig("llama_rope_dynamic");
  shorter["rope_parameters"]["original_max_position_embeddings"] = 100;
  ASSERT_OK(Parse(shorter));
  EXPECT_EQ(Parse(shorter)->max_positions, 100);
}

TEST(ModelConfig, ReadsWindowsOfEachFamily) {
  EXPECT_EQ(Windows(*Parse(GoldenConfig("mistral"))), (std::vector<int64_t>{48, 48}));
  EXPECT_EQ(Windows(*With("mistral", "sliding_window", nullptr)), (std::vector<int64_t>{0, 0}));
  EXPECT_EQ(Windows(*Parse(GoldenConfig("gemma2"))), (std::vector<int64_t>{32, 0, 32, 0}));
  json gemma3 = GoldenConfig("gemma3", "config_v4.json");
  gemma3.erase("layer_types");
  gemma3["sliding_window_pattern"] = 3;
  EXPECT_EQ(Windows(*Parse(gemma3)), (std::vector<int64_t>{32, 32, 0, 32}));
  json qwen = GoldenConfig("qwen3");
  qwen.erase("layer_types");
  qwen["sliding_window"] = 64;
  qwen["max_window_layers"] = 1;
  EXPECT_EQ(Windows(*Parse(qwen)), (std::vector<int64_t>{0, 0}));
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(Windows(*Parse(qwen)), (std::vector<int64_t>{0, 64}));
  // Where SmolLM3 has no layer_types, the layers without positions slide.
  json smollm3 = GoldenConfig("smollm3");
  smollm3.erase("layer_types");
  EXPECT_EQ(Windows(*Parse(smollm3)), (std::vector<int64_t>{0, 32, 0, 32}));
}

TEST(ModelConfig, ReadsPositionFreeLayers) {
  const auto ropes = [](const ModelConfig& config) {
    std::vector<int32_t> result;
    for (const LayerConfig& layer : config.layers) {
      result.push_back(layer.rope);
    }
    return result;
  };
  EXPECT_EQ(ropes(*Parse(GoldenConfig("smollm3"))), (std::vector<int32_t>{0, -1, 0, -1}));
  json by_interval = GoldenConfig("smollm3");
  by_interval.erase("no_rope_layers");
  by_interval["no_rope_layer_interval"] = 3;
  EXPECT_EQ(ropes(*Parse(by_interval)), (std::vector<int32_t>{0, 0, -1, 0}));
  EXPECT_EQ(ropes(*Parse(GoldenConfig("gemma3"))), (std::vector<int32_t>{1, 0, 1, 0}));
}

TEST(ModelConfig, LeavesOutMeansTheDefaultOfTransformers) {
  json gemma2 = GoldenConfig("gemma2");
  for (const char* field : {"head_dim",
                            "attn_logit_softcapping",
                            "final_logit_softcapping",
                            "tie_word_embeddings",
                            "query_pre_attn_scalar",
                            "hidden_activation",
                            "sliding_window",
                            "num_key_value_heads"}) {
    gemma2.erase(field);
  }
  const Result<ModelConfig> config = Parse(gemma2);
  ASSERT_OK(config);
  EXPECT_EQ(config->head_dim, 256);
  EXPECT_EQ(config->attn_softcap, 50.0F);
  EXPECT_EQ(config->logit_softcap, 30.0F);
  EXPECT_EQ(config->sm_scale, 1.0F / 16.0F);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(Windows(*config), (std::vector<int64_t>{4096, 0, 4096, 0}));
  EXPECT_EQ(With("gemma2", "attn_logit_softcapping", nullptr)->attn_softcap, 0.0F);
  EXPECT_EQ(With("llama3_gqa", "num_key_value_heads", nullptr)->num_kv_heads, 6);
  EXPECT_EQ(With("llama3_gqa", "head_dim", nullptr)->head_dim, 8);
  json untied = GoldenConfig("llama3_gqa");
  untied.erase("tie_word_embeddings");
  EXPECT_FALSE(Parse(untied)->tie_word_embeddings);
}

TEST(ModelConfig, HashCoversWhatIsComputedAndNothingElse) {
  const uint64_t hash = Parse(GoldenConfig("llama3_gqa"))->hash;
  EXPECT_EQ(With("llama3_gqa", "transformers_version", "1.0")->hash, hash);
  EXPECT_EQ(With("llama3_gqa", "torch_dtype", "float16")->hash, hash);
  EXPECT_NE(With("llama3_gqa", "rms_norm_eps", 1e-5)->hash, hash);
  EXPECT_NE(With("llama3_gqa", "max_position_embeddings", 2048)->hash, hash);
}

TEST(ModelConfig, YarnTakesItsOptionalParameters) {
  const auto rope = [](const json& more) {
    json config = GoldenConfig("llama_rope_yarn");
    config["rope_parameters"].update(more);
    const Result<ModelConfig> parsed = Parse(config);
    EXPECT_OK(parsed);
    return parsed->ropes.front();
  };
  const RopeSpec plain = rope(json::object());
  EXPECT_NEAR(plain.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);
  EXPECT_EQ(rope({{"attention_factor", 0.75}}).attention_factor, 0.75);
  EXPECT_NEAR(rope({{"mscale", 2.0}, {"mscale_all_dim", 1.0}}).attention_factor,
              (0.2 * std::log(4.0) + 1.0) / (0.1 * std::log(4.0) + 1.0),
              1e-12);
  EXPECT_NE(rope({{"truncate", false}}).inv_freq, plain.inv_freq);
  EXPECT_NE(rope({{"beta_fast", 8}}).inv_freq, plain.inv_freq);
  EXPECT_NE(rope({{"beta_slow", 2}}).inv_freq, plain.inv_freq);
  // Without a factor, the ratio of the lengths is meant: 2048 / 512.
  EXPECT_EQ(rope({{"factor", nullptr}}), plain);
}

}  // namespace
}  // namespace varve
