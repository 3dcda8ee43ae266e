#include "coordinator/tokenizer/tokenizer_json.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

Result<std::vector<AddedToken>> ReadAddedTokens(const JsonAt& list) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) {
    return tokens;
  }
  VARVE_RETURN_IF_ERROR(list.RequireArray());
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonAt token = list.Element(i);
    VARVE_RETURN_IF_ERROR(token.RequireObject());
    VARVE_TRY(const int32_t id, token.Field("id").AsTokenId());
    VARVE_TRY(AddedToken added, ReadAddedTokenJson(token, id));
    tokens.push_back(std::move(added));
  }
  return tokens;
}

// The id of the one token that the template puts before the text, if any. Tokens behind the text
// are refused: a prompt that ends in <eos> is no prompt.
Result<std::optional<int32_t>> ReadTemplate(const JsonAt& processor) {
  const JsonAt single = processor.Field("single");
  VARVE_RETURN_IF_ERROR(single.RequireArray());
  std::optional<int32_t> bos_id;
  bool seen_text = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonAt item = single.Element(i);
    VARVE_RETURN_IF_ERROR(item.RequireOnly({"SpecialToken", "Sequence"}));
    if (!item.Field("Sequence").is_null()) {
      seen_text = true;
      continue;
    }
    const JsonAt special = item.Field("SpecialToken");
    VARVE_RETURN_IF_ERROR(special.RequireObject());
    if (seen_text || bos_id) {
      return item.Unsupported("(a token other than one before the text)");
    }
    VARVE_TRY(const std::string name, special.Field("id").AsString());
    VARVE_RETURN_IF_ERROR(processor.Field("special_tokens").RequireObject());
    const JsonAt entry = processor.Field("special_tokens").Field(name);
    VARVE_RETURN_IF_ERROR(entry.RequireObject());
    VARVE_RETURN_IF_ERROR(entry.Field("ids").RequireArray());
    if (entry.Field("ids").size() != 1) {
      return entry.Field("ids").Bad("is not one id");
    }
    VARVE_TRY(bos_id, entry.Field("ids").Element(0).AsTokenId());
  }
  return bos_id;
}

Result<std::optional<int32_t>> ReadPostProcessor(const JsonAt& processor) {
  if (processor.is_null()) {
    return std::optional<int32_t>();
  }
  VARVE_RETURN_IF_ERROR(processor.RequireObject());
  VARVE_TRY(const std::string type, processor.Field("type").AsString());
  if (type == "ByteLevel") {
    return std::optional<int32_t>();
  }
  if (type == "TemplateProcessing") {
    return ReadTemplate(processor);
  }
  if (type != "Sequence") {
    return processor.Field("type").Unsupported("'" + type + "'");
  }
  const JsonAt list = processor.Field("processors");
  VARVE_RETURN_IF_ERROR(list.RequireArray());
  std::optional<int32_t> bos_id;
  for (size_t i = 0; i < list.size(); ++i) {
    VARVE_TRY(const std::optional<int32_t> found, ReadPostProcessor(list.Element(i)));
    if (found && bos_id) {
      return list.Element(i).Unsupported("(a second token before the text)");
    }
    if (found) {
      bos_id = found;
    }
  }
  return bos_id;
}

}  // namespace

Result<AddedToken> ReadAddedTokenJson(const JsonAt& token, int32_t id) {
  VARVE_RETURN_IF_ERROR(token.RequireObject());
  AddedToken added;
  added.id = id;
  VARVE_TRY(added.content, token.Field("content").AsString());
  VARVE_TRY(added.special, token.Field("special").AsBool(false));
  VARVE_TRY(added.single_word, token.Field("single_word").AsBool(false));
  VARVE_TRY(added.lstrip, token.Field("lstrip").AsBool(false));
  VARVE_TRY(added.rstrip, token.Field("rstrip").AsBool(false));
  VARVE_TRY(added.normalized, token.Field("normalized").AsBool(!added.special));
  return added;
}

Result<TokenizerJson> ReadTokenizerJson(const Json& json) {
  const JsonAt root{&json, "tokenizer.json:"};
  VARVE_RETURN_IF_ERROR(root.RequireOnly({"version",
                                          "truncation",
                                          "padding",
                                          "added_tokens",
                                          "normalizer",
                                          "pre_tokenizer",
                                          "post_processor",
                                          "decoder",
                                          "model"}));
  TokenizerJson result;
  VARVE_TRY(result.added_tokens, ReadAddedTokens(root.Field("added_tokens")));
  VARVE_TRY(result.normalizer, ReadNormalizerJson(root.Field("normalizer")));
  VARVE_TRY(PreTokenizerJson pre_tokenizer, ReadPreTokenizerJson(root.Field("pre_tokenizer")));
  result.pre_tokenizer = std::move(pre_tokenizer.steps);
  VARVE_TRY(result.decoder, ReadDecoderJson(root.Field("decoder")));
  if (result.decoder.byte_level != pre_tokenizer.is_byte_level) {
    return root.Field("decoder").Unsupported(
        "(ByteLevel in only one of pre_tokenizer and decoder)");
  }
  VARVE_TRY(result.template_bos_id, ReadPostProcessor(root.Field("post_processor")));
  VARVE_RETURN_IF_ERROR(ReadModelJson(root.Field("model"), pre_tokenizer.is_byte_level, &result));
  return result;
}

}  // namespace varve
