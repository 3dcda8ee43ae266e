#include "worker/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include <fmt/format.h>

#include "proto/base/hash.h"
#include "worker/config_fields.h"
#include "worker/harmless_fields.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

enum class Family { kLlama, kMistral, kQwen2, kQwen3, kGemma2, kGemma3, kSmolLm3 };

// Defaults are those of transformers, because a saved configuration may leave out what equals them.
struct FamilyTraits {
  std::string_view model_type;
  std::string_view architecture;
  Family family;
  int64_t num_kv_heads;  // 0: as many as heads
  int64_t head_dim;      // 0: hidden_size / heads
  int64_t max_positions;
  double rope_theta;
  bool tie_word_embeddings;
};

constexpr std::array<FamilyTraits, 7> kFamilies = {{
    {"llama", "LlamaForCausalLM", Family::kLlama, 0, 0, 2048, 1e4, false},
    {"mistral", "MistralForCausalLM", Family::kMistral, 8, 0, 131072, 1e4, false},
    {"qwen2", "Qwen2ForCausalLM", Family::kQwen2, 32, 0, 32768, 1e4, false},
    {"qwen3", "Qwen3ForCausalLM", Family::kQwen3, 32, 128, 32768, 1e4, false},
    {"gemma2", "Gemma2ForCausalLM", Family::kGemma2, 4, 256, 8192, 1e4, true},
    {"gemma3_text", "Gemma3ForCausalLM", Family::kGemma3, 4, 256, 131072, 1e6, true},
    {"smollm3", "SmolLM3ForCausalLM", Family::kSmolLm3, 4, 0, 32768, 2e6, true},
}};

constexpr int64_t kMaxDimension = 1 << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 40;

bool IsGemma(Family family) {
  return family == Family::kGemma2 || family == Family::kGemma3;
}

void ReadSizes(ConfigFields& fields, const FamilyTraits& traits, ModelConfig& config) {
  const auto required = [&](std::string_view name) {
    return static_cast<int32_t>(fields.Int(name, std::nullopt, 1, kMaxDimension));
  };
  config.vocab_size = required("vocab_size");
  config.hidden_size = required("hidden_size");
  config.ffn_size = required("intermediate_size");
  config.num_layers = static_cast<int32_t>(fields.Int("num_hidden_layers", std::nullopt, 1, 4096));
  config.num_qo_heads =
      static_cast<int32_t>(fields.Int("num_attention_heads", std::nullopt, 1, 65536));

  const bool as_heads = traits.num_kv_heads == 0 || fields.IsNull("num_key_value_heads");
  const int64_t kv_fallback = as_heads ? config.num_qo_heads : traits.num_kv_heads;
  config.num_kv_heads =
      static_cast<int32_t>(fields.Int("num_key_value_heads", kv_fallback, 1, 65536));
  if (config.num_qo_heads % config.num_kv_heads != 0) {
    fields.Fail(ErrorCode::kBadModel,
                fmt::format("num_key_value_heads ({}) must divide num_attention_heads ({})",
                            config.num_kv_heads,
                            config.num_qo_heads));
  }
  int64_t head_dim = traits.head_dim;
  if ((head_dim == 0 || fields.IsNull("head_dim")) && !fields.Has("head_dim")) {
    head_dim = config.hidden_size / config.num_qo_heads;
    if (config.hidden_size % config.num_qo_heads != 0) {
      fields.Fail(
          ErrorCode::kBadModel,
          fmt::format("hidden_size ({}) must be a multiple of num_attention_heads ({}) where "
                      "head_dim is not given",
                      config.hidden_size,
                      config.num_qo_heads));
    }
  }
  config.head_dim = static_cast<int32_t>(fields.Int("head_dim", head_dim, 2, 4096));
  if (config.head_dim % 2 != 0) {
    fields.Unsupported("head_dim", "an odd one has no pairs to rotate");
  }
  config.max_positions =
      fields.Int("max_position_embeddings", traits.max_positions, 1, kMaxPositions);
  config.max_positions_because = "max_position_embeddings";
}

void ReadActivation(ConfigFields& fields, Family family, ModelConfig& config) {
  // Gemma computes with hidden_activation; its hidden_act is left over from an older format.
  const bool gemma = IsGemma(family);
  const std::string_view name = gemma ? "hidden_activation" : "hidden_act";
  if (gemma) {
    fields.Ignore("hidden_act");
  }
  const std::string activation = fields.String(name, gemma ? "gelu_pytorch_tanh" : "silu");
  if (activation == "silu" || activation == "swish") {
    config.activation = Activation::kSilu;
  } else if (activation == "gelu_pytorch_tanh") {
    config.activation = Activation::kGeluTanh;
  } else {
    fields.Unsupported(name, fmt::format("'{}' is neither silu nor gelu_pytorch_tanh", activation));
  }
}

void ReadArithmetic(ConfigFields& fields, const FamilyTraits& traits, ModelConfig& config) {
  const Family family = traits.family;
  ReadActivation(fields, family, config);
  config.norm_eps = static_cast<float>(fields.Number("rms_norm_eps", 1e-6, 0.0, 1.0));
  config.tie_word_embeddings = fields.Bool("tie_word_embeddings", traits.tie_word_embeddings);
  config.has_qk_norm = family == Family::kQwen3 || family == Family::kGemma3;
  double scale_of = config.head_dim;
  if (IsGemma(family)) {
    config.norm_weight_offset = 1.0F;
    config.has_post_norms = true;
    config.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden_size)));
    scale_of = fields.Number("query_pre_attn_scalar", 256, 1e-6, 1e9);
    const bool gemma2 = family == Family::kGemma2;
    const auto softcap = [&](std::string_view name, double fallback) {
      const bool off = fields.IsNull(name) || !gemma2;
      return static_cast<float>(fields.Number(name, off ? 0.0 : fallback, 0.0, 1e6));
    };
    config.attn_softcap = softcap("attn_logit_softcapping", 50.0);
    config.logit_softcap = softcap("final_logit_softcapping", 30.0);
    if (fields.Bool("use_bidirectional_attention", false)) {
      fields.Unsupported("use_bidirectional_attention", "attention is causal");
    }
  }
  config.sm_scale = static_cast<float>(1.0 / std::sqrt(scale_of));

  config.has_qkv_bias = family == Family::kQwen2;
  if (family != Family::kQwen2 && family != Family::kMistral) {
    config.has_qkv_bias = config.has_o_bias = fields.Bool("attention_bias", false);
  } else if (fields.Bool("attention_bias", config.has_qkv_bias) != config.has_qkv_bias) {
    fields.Unsupported("attention_bias", fmt::format("{} fixes it", traits.model_type));
  }
  if (family == Family::kLlama || family == Family::kSmolLm3) {
    config.has_ffn_bias = fields.Bool("mlp_bias", false);
  } else if (fields.Bool("mlp_bias", false)) {
    fields.Unsupported("mlp_bias", fmt::format("{} has none", traits.model_type));
  }
}

// Fields that are understood with one value only.
void RefuseOtherModes(ConfigFields& fields) {
  for (const std::string_view name : {"rope_interleaved",
                                      "is_decoder",
                                      "is_encoder_decoder",
                                      "cross_attention_hidden_size",
                                      "add_cross_attention",
                                      "tie_encoder_decoder",
                                      "tf_legacy_loss"}) {
    if (fields.Has(name) && fields.Bool(name, false)) {
      fields.Unsupported(name, "only false is");
    }
  }
  if (fields.Number("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
    fields.Unsupported("partial_rotary_factor", "only 1 is");
  }
}

// Whether layer `index` slides where the configuration has no layer_types.
bool SlidesByDefault(Family family,
                     int64_t index,
                     int64_t pattern,
                     int64_t max_window_layers,
                     bool has_rope) {
  switch (family) {
    case Family::kLlama:
      return false;
    case Family::kMistral:
      return true;
    case Family::kQwen2:
    case Family::kQwen3:
      return index >= max_window_layers;
    case Family::kGemma2:
      return (index + 1) % 2 != 0;
    case Family::kGemma3:
      return (index + 1) % pattern != 0;
    case Family::kSmolLm3:
      return !has_rope;
  }
  return false;
}

int64_t ReadWindow(ConfigFields& fields, Family family) {
  const bool always = family == Family::kMistral || IsGemma(family);
  const bool on = always || fields.Bool("use_sliding_window", false);
  // Some families have a window by default where the field is absent; null means none.
  const bool has_default = family != Family::kSmolLm3 && !fields.IsNull("sliding_window");
  const int64_t window = fields.Int("sliding_window", has_default ? 4096 : 0, 0, kMaxPositions);
  if (fields.Has("sliding_window") && window == 0) {
    fields.Fail(ErrorCode::kBadModel, "the field sliding_window is 0; it must be a length or null");
  }
  return on ? window : 0;
}

void ReadWindows(ConfigFields& fields, Family family, ModelConfig& config) {
  if (family == Family::kLlama) {
    return;  // its configuration has no such field; one that is there is refused as unknown
  }
  const int64_t window = ReadWindow(fields, family);
  int64_t pattern = 6;
  if (family == Family::kGemma3) {
    pattern = fields.Int("_sliding_window_pattern", pattern, 1, 4096);
    pattern = fields.Int("sliding_window_pattern", pattern, 1, 4096);
  }
  int64_t max_window_layers = 28;
  if (family == Family::kQwen2 || family == Family::kQwen3 || family == Family::kSmolLm3) {
    max_window_layers = fields.Int("max_window_layers", max_window_layers, 0, kMaxDimension);
  }
  const bool given = fields.Has("layer_types");
  const std::vector<std::string> types = fields.Strings("layer_types");
  if (given && types.size() != static_cast<size_t>(config.num_layers)) {
    fields.Fail(
        ErrorCode::kBadModel,
        fmt::format(
            "the field layer_types has {} entries for {} layers", types.size(), config.num_layers));
    return;
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    LayerConfig& layer = config.layers[static_cast<size_t>(i)];
    bool slides =
        window > 0 && SlidesByDefault(family, i, pattern, max_window_layers, layer.rope >= 0);
    if (given) {
      const std::string& type = types[static_cast<size_t>(i)];
      if (type != "sliding_attention" && type != "full_attention") {
        fields.Unsupported(
            fmt::format("layer_types[{}]", i),
            fmt::format("'{}' is neither full_attention nor sliding_attention", type));
      }
      // Mistral's own code does not look at layer_types, so they must say what it does.
      if (family == Family::kMistral && (type == "sliding_attention") != slides) {
        fields.Unsupported("layer_types",
                           "mistral has one kind of layer, which sliding_window decides");
      }
      slides = type == "sliding_attention";
    }
    if (slides && window == 0) {
      fields.Fail(
          ErrorCode::kBadModel,
          fmt::format(
              "layer {} slides (layer_types), but sliding_window or use_sliding_window says that "
              "there is no window",
              i));
    }
    layer.window = slides ? window : 0;
  }
}

void ReadPositionFreeLayers(ConfigFields& fields, ModelConfig& config) {
  const int64_t interval = fields.Int("no_rope_layer_interval", 4, 1, kMaxDimension);
  const bool given = fields.Has("no_rope_layers");
  const std::vector<int64_t> has_rope = fields.Ints("no_rope_layers");
  const auto num_layers = static_cast<size_t>(config.num_layers);
  if (given && has_rope.size() < num_layers) {
    fields.Fail(
        ErrorCode::kBadModel,
        fmt::format(
            "the field no_rope_layers has {} entries for {} layers", has_rope.size(), num_layers));
    return;
  }
  for (size_t i = 0; i < num_layers; ++i) {
    // In spite of its name a 1 in this list means that the layer does rotate.
    const bool rotates = given ? has_rope[i] != 0 : (static_cast<int64_t>(i) + 1) % interval != 0;
    config.layers[i].rope = rotates ? 0 : -1;
  }
}

Result<void> ReadRopes(ConfigFields& fields, const FamilyTraits& traits, ModelConfig& config) {
  RopeContext context{.head_dim = config.head_dim, .max_positions = config.max_positions};
  context.theta = fields.Number("rope_theta", traits.rope_theta, 1.0 + 1e-6, 1e12);
  const nlohmann::json* scaling = fields.Find("rope_scaling");
  const nlohmann::json* parameters = fields.Find("rope_parameters");
  if (scaling != nullptr && parameters != nullptr) {
    return Error{ErrorCode::kUnsupported,
                 "both rope_scaling and rope_parameters are given; one would be ignored"};
  }
  std::vector<ParsedRope> parsed;
  if (traits.family != Family::kGemma3) {
    const std::string path = scaling != nullptr ? "rope_scaling" : "rope_parameters";
    VARVE_TRY(ParsedRope rope,
              ParseRopeObject(scaling != nullptr ? scaling : parameters, path, context));
    parsed.push_back(std::move(rope));
  } else {
    // Gemma 3: global layers take the scaling; sliding layers have a base of their own and no
    // scaling.
    RopeContext local = context;
    local.theta = fields.Number("rope_local_base_freq", 1e4, 1.0 + 1e-6, 1e12);
    const nlohmann::json* local_object = nullptr;
    std::string path = "rope_scaling";
    if (parameters != nullptr) {
      if (!parameters->is_object()) {
        return Error{ErrorCode::kBadModel, "the field rope_parameters must be an object"};
      }
      ConfigFields nested(*parameters, "rope_parameters.");
      scaling = nested.Find("full_attention");
      local_object = nested.Find("sliding_attention");
      path = "rope_parameters.full_attention";
      VARVE_RETURN_IF_ERROR(nested.Finish({}, "rope parameters by layer type"));
    }
    VARVE_TRY(ParsedRope global_rope, ParseRopeObject(scaling, path, context));
    VARVE_TRY(ParsedRope local_rope,
              ParseRopeObject(local_object, "rope_parameters.sliding_attention", local));
    parsed.push_back(std::move(global_rope));
    parsed.push_back(std::move(local_rope));
    for (LayerConfig& layer : config.layers) {
      layer.rope = layer.window > 0 ? 1 : 0;
    }
  }
  for (ParsedRope& rope : parsed) {
    if (rope.is_dynamic) {
      config.max_positions = std::min(config.max_positions, rope.max_positions);
      config.max_positions_because =
          "rope_type dynamic: beyond the original length its base depends on the final length";
    }
    config.ropes.push_back(std::move(rope.spec));
  }
  return {};
}

uint64_t HashFields(const nlohmann::json& root) {
  nlohmann::json kept = root;  // sorted by key
  for (const std::string_view name : kHarmlessFields) {
    kept.erase(std::string(name));
  }
  return Hash64(kept.dump());
}

Result<const FamilyTraits*> FindFamily(ConfigFields& fields) {
  const std::string model_type = fields.String("model_type", "");
  const std::vector<std::string> architectures = fields.Strings("architectures");
  VARVE_RETURN_IF_ERROR(fields.Status());
  const auto* const traits =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](const FamilyTraits& t) {
        return t.model_type == model_type;
      });
  if (traits == kFamilies.end()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("model_type '{}' is not supported; llama, mistral, qwen2, qwen3, "
                             "gemma2, gemma3_text and "
                             "smollm3 are",
                             model_type)};
  }
  if (!architectures.empty() &&
      std::find(architectures.begin(), architectures.end(), traits->architecture) ==
          architectures.end()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("architectures names {}; for model_type {} only {} is supported",
                             architectures.front(),
                             model_type,
                             traits->architecture)};
  }
  return traits;
}

}  // namespace

KvGeometry ModelConfig::Geometry() const {
  KvGeometry geometry{.num_kv_heads = num_kv_heads,
                      .head_dim = head_dim,
                      .num_qo_heads = num_qo_heads,
                      .sm_scale = sm_scale,
                      .attn_softcap = attn_softcap};
  for (const LayerConfig& layer : layers) {
    geometry.layer_windows.push_back(layer.window);
  }
  return geometry;
}

Result<ModelConfig> ParseModelConfig(std::string_view json_text) {
  const nlohmann::json root = nlohmann::json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return Error{ErrorCode::kBadModel, "config.json is not a JSON object"};
  }
  ConfigFields fields(root, "");
  VARVE_TRY(const FamilyTraits* traits, FindFamily(fields));
  ModelConfig config{.architecture = std::string(traits->architecture),
                     .model_type = std::string(traits->model_type)};
  ReadSizes(fields, *traits, config);
  VARVE_RETURN_IF_ERROR(fields.Status());
  config.layers.resize(static_cast<size_t>(config.num_layers));
  ReadArithmetic(fields, *traits, config);
  RefuseOtherModes(fields);
  if (traits->family == Family::kSmolLm3) {
    ReadPositionFreeLayers(fields, config);
  }
  ReadWindows(fields, traits->family, config);
  VARVE_RETURN_IF_ERROR(ReadRopes(fields, *traits, config));
  VARVE_RETURN_IF_ERROR(
      fields.Finish(kHarmlessFields, fmt::format("a configuration of {}", traits->model_type)));
  config.hash = HashFields(root);
  return config;
}

}  // namespace varve
