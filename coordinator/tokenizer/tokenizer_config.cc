#include "coordinator/tokenizer/tokenizer_config.h"

#include <charconv>

#include "coordinator/tokenizer/json_fields.h"
#include "coordinator/tokenizer/tokenizer_json.h"
#include "proto/base/file.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr uint64_t kMaxTemplateBytes = uint64_t{1} << 20;

// A token is written as a string or as an object with "content"; null is no token.
Result<std::string> ReadTokenContent(const JsonAt& token) {
  if (token.is_null()) {
    return std::string();
  }
  if (token.value->is_object()) {
    return token.Field("content").AsString();
  }
  return token.AsString();
}

// One template, or a list of named ones of which "default" is taken.
Result<std::string> ReadChatTemplate(const JsonAt& chat_template) {
  if (chat_template.is_null()) {
    return std::string();
  }
  if (!chat_template.value->is_array()) {
    return chat_template.AsString();
  }
  for (size_t i = 0; i < chat_template.size(); ++i) {
    const JsonAt entry = chat_template.Element(i);
    VARVE_RETURN_IF_ERROR(entry.RequireObject());
    VARVE_TRY(const std::string name, entry.Field("name").AsString());
    if (name == "default") {
      return entry.Field("template").AsString();
    }
  }
  return chat_template.Bad("has no template named 'default'");
}

Result<std::vector<AddedToken>> ReadAddedTokensDecoder(const JsonAt& decoder) {
  std::vector<AddedToken> tokens;
  if (decoder.is_null()) {
    return tokens;
  }
  VARVE_RETURN_IF_ERROR(decoder.RequireObject());
  for (const auto& item : decoder.value->items()) {
    const JsonAt token{&item.value(), decoder.path + "." + item.key()};
    int64_t id = -1;
    const char* end = item.key().data() + item.key().size();
    const auto parsed = std::from_chars(item.key().data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end) {
      return token.Bad("is not named by a token id");
    }
    const Json id_json = id;
    VARVE_TRY(const int32_t token_id, (JsonAt{&id_json, token.path}.AsTokenId()));
    VARVE_TRY(AddedToken added, ReadAddedTokenJson(token, token_id));
    tokens.push_back(std::move(added));
  }
  return tokens;
}

Result<void> ReadMainConfig(const std::string& path, TokenizerConfig* config) {
  VARVE_TRY(const Json json, ReadJsonFile(path, nullptr));
  const JsonAt root{&json, "tokenizer_config.json:"};
  VARVE_TRY(config->bos_token, ReadTokenContent(root.Field("bos_token")));
  VARVE_TRY(config->eos_token, ReadTokenContent(root.Field("eos_token")));
  VARVE_TRY(config->chat_template, ReadChatTemplate(root.Field("chat_template")));
  VARVE_TRY(config->added_tokens, ReadAddedTokensDecoder(root.Field("added_tokens_decoder")));
  VARVE_TRY(config->prefix_every_segment, root.Field("legacy").AsBool(true));
  VARVE_TRY(const bool add_eos_token, root.Field("add_eos_token").AsBool(false));
  if (add_eos_token) {
    return root.Field("add_eos_token").Unsupported("(true)");
  }
  if (const JsonAt add_bos_token = root.Field("add_bos_token"); !add_bos_token.is_null()) {
    VARVE_TRY(config->add_bos_token, add_bos_token.AsBool(false));
  }
  return {};
}

Result<void> ReadSpecialTokensMap(const std::string& path, TokenizerConfig* config) {
  VARVE_TRY(const Json json, ReadJsonFile(path, nullptr));
  const JsonAt root{&json, "special_tokens_map.json:"};
  if (config->bos_token.empty()) {
    VARVE_TRY(config->bos_token, ReadTokenContent(root.Field("bos_token")));
  }
  if (config->eos_token.empty()) {
    VARVE_TRY(config->eos_token, ReadTokenContent(root.Field("eos_token")));
  }
  return {};
}

// "eos_token_id": one id, a list of them, or null.
Result<void> ReadEosIds(const std::string& directory,
                        const std::string& file_name,
                        TokenizerConfig* config) {
  const std::string path = directory + "/" + file_name;
  if (!config->eos_ids.empty() || !FileExists(path)) {
    return {};
  }
  VARVE_TRY(const Json json, ReadJsonFile(path, nullptr));
  const JsonAt ids = JsonAt{&json, file_name + ":"}.Field("eos_token_id");
  if (ids.is_null()) {
    return {};
  }
  const size_t num_ids = ids.value->is_array() ? ids.size() : 1;
  for (size_t i = 0; i < num_ids; ++i) {
    VARVE_TRY(const int32_t id, (ids.value->is_array() ? ids.Element(i) : ids).AsTokenId());
    config->eos_ids.push_back(id);
  }
  return {};
}

}  // namespace

Result<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir) {
  TokenizerConfig config;
  const std::string main_path = model_dir + "/tokenizer_config.json";
  if (FileExists(main_path)) {
    VARVE_RETURN_IF_ERROR(ReadMainConfig(main_path, &config));
  }
  const std::string map_path = model_dir + "/special_tokens_map.json";
  if (FileExists(map_path)) {
    VARVE_RETURN_IF_ERROR(ReadSpecialTokensMap(map_path, &config));
  }
  VARVE_RETURN_IF_ERROR(ReadEosIds(model_dir, "generation_config.json", &config));
  VARVE_RETURN_IF_ERROR(ReadEosIds(model_dir, "config.json", &config));
  const std::string template_path = model_dir + "/chat_template.jinja";
  if (FileExists(template_path)) {
    VARVE_TRY(config.chat_template, ReadFile(template_path, kMaxTemplateBytes));
  }
  return config;
}

}  // namespace varve
