// The "model" of tokenizer.json: the vocabulary and the merges of a BPE.
#include <cstdio>
#include <unordered_set>

#include "coordinator/tokenizer/byte_level.h"
#include "coordinator/tokenizer/tokenizer_json.h"
#include "coordinator/tokenizer/utf8.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using IdByText = std::unordered_map<std::string, int32_t>;

Result<void> RequireBpe(const JsonAt& model) {
  VARVE_RETURN_IF_ERROR(model.RequireObject());
  // Files from before the type was written have merges only if they are BPE.
  if (!model.Field("type").is_null() || model.Field("merges").is_null()) {
    VARVE_TRY(const std::string type, model.Field("type").AsString());
    if (type != "BPE") {
      return model.Field("type").Unsupported("'" + type + "'");
    }
  }
  VARVE_RETURN_IF_ERROR(model.RequireOnly({"type",
                                           "dropout",
                                           "unk_token",
                                           "continuing_subword_prefix",
                                           "end_of_word_suffix",
                                           "fuse_unk",
                                           "byte_fallback",
                                           "ignore_merges",
                                           "vocab",
                                           "merges"}));
  const JsonAt dropout = model.Field("dropout");
  if (!dropout.is_null() && *dropout.value != 0.0) {
    return dropout.Unsupported("other than 0");
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonAt affix = model.Field(name);
    if (!affix.is_null() && *affix.value != "") {
      return affix.Unsupported("");
    }
  }
  return {};
}

Result<void> SetTokenText(const JsonAt& where,
                          int32_t id,
                          const std::string& text,
                          TokenizerJson* json) {
  const auto index = static_cast<size_t>(id);
  if (index >= json->token_text.size()) {
    json->token_text.resize(index + 1);
  }
  std::string& slot = json->token_text[index];
  if (!slot.empty() && slot != text) {
    return where.Bad("gives the id " + std::to_string(id) + " to two tokens");
  }
  slot = text;
  return {};
}

// The file's vocabulary as written, and the spellings that the model looks for.
Result<IdByText> ReadVocabulary(const JsonAt& vocab, bool is_byte_level, TokenizerJson* json) {
  VARVE_RETURN_IF_ERROR(vocab.RequireObject());
  std::unordered_set<int32_t> special_ids;
  for (const AddedToken& token : json->added_tokens) {
    if (token.special) {
      special_ids.insert(token.id);
    }
  }
  IdByText id_by_text;
  id_by_text.reserve(vocab.size());
  json->bpe.vocabulary.reserve(vocab.size());
  for (const auto& item : vocab.value->items()) {
    const JsonAt entry{&item.value(), vocab.path + "." + item.key()};
    VARVE_TRY(const int32_t id, entry.AsTokenId());
    VARVE_RETURN_IF_ERROR(SetTokenText(vocab, id, item.key(), json));
    id_by_text.emplace(item.key(), id);
    // Text never becomes a control token, even if it spells one.
    if (special_ids.contains(id)) {
      continue;
    }
    if (!is_byte_level) {
      json->bpe.vocabulary.emplace_back(item.key(), id);
    } else if (auto bytes = BytesOfByteLevelText(item.key())) {
      json->bpe.vocabulary.emplace_back(std::move(*bytes), id);
    }
  }
  for (const AddedToken& token : json->added_tokens) {
    VARVE_RETURN_IF_ERROR(SetTokenText(vocab, token.id, token.content, json));
    const auto known = id_by_text.find(token.content);
    if (known != id_by_text.end() && known->second != token.id) {
      return vocab.Bad("and added_tokens give '" + token.content + "' different ids");
    }
  }
  return id_by_text;
}

// The merge of these two tokens, if the vocabulary has them and what they make.
std::optional<BpeMerge> FindMerge(const IdByText& id_by_text,
                                  const std::string& left,
                                  const std::string& right) {
  const auto left_id = id_by_text.find(left);
  const auto right_id = id_by_text.find(right);
  if (left_id == id_by_text.end() || right_id == id_by_text.end()) {
    return std::nullopt;
  }
  const auto result_id = id_by_text.find(left + right);
  if (result_id == id_by_text.end()) {
    return std::nullopt;
  }
  return BpeMerge{left_id->second, right_id->second, result_id->second};
}

// A merge is ["left", "right"] or "left right". Some published files have tokens of blanks, which
// the second spelling does not tell apart from its separator: the first blank that leaves two
// tokens is taken.
Result<BpeMerge> ReadMerge(const JsonAt& merge, const IdByText& id_by_text) {
  std::optional<BpeMerge> found;
  if (merge.value->is_array() && merge.size() == 2) {
    VARVE_TRY(const std::string left, merge.Element(0).AsString());
    VARVE_TRY(const std::string right, merge.Element(1).AsString());
    found = FindMerge(id_by_text, left, right);
  } else {
    VARVE_TRY(const std::string text, merge.AsString());
    size_t blank = text.find(' ');
    if (blank == std::string::npos) {
      return merge.Bad("is not two tokens");
    }
    for (; blank != std::string::npos && !found; blank = text.find(' ', blank + 1)) {
      found = FindMerge(id_by_text, text.substr(0, blank), text.substr(blank + 1));
    }
  }
  if (!found) {
    return merge.Bad("names a token that is not in the vocabulary");
  }
  return *found;
}

Result<std::vector<BpeMerge>> ReadMerges(const JsonAt& list, const IdByText& id_by_text) {
  VARVE_RETURN_IF_ERROR(list.RequireArray());
  std::vector<BpeMerge> merges;
  merges.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    VARVE_TRY(const BpeMerge merge, ReadMerge(list.Element(i), id_by_text));
    merges.push_back(merge);
  }
  return merges;
}

std::vector<int32_t> ByteTokenIds(const IdByText& id_by_text) {
  std::vector<int32_t> ids(256, kNoToken);
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    if (const auto found = id_by_text.find(name); found != id_by_text.end()) {
      ids[byte] = found->second;
    }
  }
  return ids;
}

}  // namespace

Result<void> ReadModelJson(const JsonAt& model, bool is_byte_level, TokenizerJson* json) {
  VARVE_RETURN_IF_ERROR(RequireBpe(model));
  BpeSpec& bpe = json->bpe;
  bpe.byte_level = is_byte_level;
  VARVE_TRY(bpe.fuse_unk, model.Field("fuse_unk").AsBool(false));
  VARVE_TRY(bpe.ignore_merges, model.Field("ignore_merges").AsBool(false));
  VARVE_TRY(const bool byte_fallback, model.Field("byte_fallback").AsBool(false));
  VARVE_TRY(const IdByText id_by_text, ReadVocabulary(model.Field("vocab"), is_byte_level, json));
  VARVE_TRY(bpe.merges, ReadMerges(model.Field("merges"), id_by_text));
  if (byte_fallback && is_byte_level) {
    return model.Field("byte_fallback").Unsupported("with ByteLevel");
  }
  if (byte_fallback) {
    bpe.byte_fallback_ids = ByteTokenIds(id_by_text);
  }
  if (const JsonAt unk = model.Field("unk_token"); !unk.is_null()) {
    VARVE_TRY(const std::string text, unk.AsString());
    const auto found = id_by_text.find(text);
    if (found == id_by_text.end()) {
      return unk.Bad("is not in the vocabulary");
    }
    bpe.unk_id = found->second;
  }
  return {};
}

}  // namespace varve
