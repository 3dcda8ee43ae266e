// Tokenizer::Load: reads the files and puts the parts together.
#include <algorithm>

#include "coordinator/tokenizer/tokenizer_config.h"
#include "coordinator/tokenizer/tokenizer_json.h"
#include "coordinator/tokenizer/tokenizer_state.h"
#include "proto/base/file.h"
#include "proto/base/hash.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr uint64_t kMaxModelBytes = uint64_t{64} << 20;

// The tokens of the tokenizer file, and those that only tokenizer_config.json knows.
Result<std::vector<AddedToken>> MergeAddedTokens(std::vector<AddedToken> tokens,
                                                 const std::vector<AddedToken>& from_config,
                                                 std::vector<std::string>* token_text) {
  for (const AddedToken& added : from_config) {
    const auto same_id = std::find_if(tokens.begin(), tokens.end(), [&](const AddedToken& token) {
      return token.id == added.id;
    });
    const auto index = static_cast<size_t>(added.id);
    if (index >= token_text->size()) {
      token_text->resize(index + 1);
    }
    std::string& text = (*token_text)[index];
    if (!text.empty() && text != added.content) {
      return Error{ErrorCode::kBadModel,
                   "tokenizer_config.json: added_tokens_decoder." + std::to_string(added.id) +
                       " is '" + added.content + "' but the vocabulary says '" + text + "'."};
    }
    text = added.content;
    if (same_id == tokens.end()) {
      tokens.push_back(added);
    }
  }
  return tokens;
}

void HashAddedTokens(const std::vector<AddedToken>& tokens, Hasher64* hasher) {
  for (const AddedToken& token : tokens) {
    const std::string flags = {token.special ? '1' : '0',
                               token.single_word ? '1' : '0',
                               token.lstrip ? '1' : '0',
                               token.rstrip ? '1' : '0',
                               token.normalized ? '1' : '0'};
    hasher->Update(std::to_string(token.id) + ":" + std::to_string(token.content.size()) + ":" +
                   flags);
    hasher->Update(token.content);
  }
}

}  // namespace

// Collects a State from what the readers found.
class TokenizerBuilder {
 public:
  using State = Tokenizer::State;

  static Result<std::shared_ptr<const Tokenizer>> Build(const std::string& model_dir);

 private:
  explicit TokenizerBuilder(TokenizerConfig config) : config_(std::move(config)) {}

  Result<void> ReadJson(const std::string& path);
  Result<void> ReadSentencePiece(const std::string& path);
  Result<void> AddTokens(std::vector<AddedToken> tokens, DecoderSpec decoder);
  Result<void> SetEnds(std::optional<int32_t> bos_id_of_file, bool adds_bos_by_default);

  TokenizerConfig config_;
  std::unique_ptr<State> state_ = std::make_unique<State>();
};

Result<void> TokenizerBuilder::ReadJson(const std::string& path) {
  std::string bytes;
  VARVE_TRY(const Json json, ReadJsonFile(path, &bytes));
  VARVE_TRY(TokenizerJson parsed, ReadTokenizerJson(json));
  Hasher64 hasher;
  hasher.Update(bytes);
  HashAddedTokens(config_.added_tokens, &hasher);
  state_->content_hash = hasher.Digest();
  state_->token_text = std::move(parsed.token_text);
  auto& pipeline = std::get<BpePipeline>(state_->pipeline);
  pipeline.normalizer = Normalizer(std::move(parsed.normalizer));
  pipeline.pre_tokenizer = PreTokenizer(std::move(parsed.pre_tokenizer));
  pipeline.model = BpeModel(std::move(parsed.bpe));
  VARVE_RETURN_IF_ERROR(AddTokens(std::move(parsed.added_tokens), std::move(parsed.decoder)));
  return SetEnds(parsed.template_bos_id, parsed.template_bos_id.has_value());
}

Result<void> TokenizerBuilder::ReadSentencePiece(const std::string& path) {
  VARVE_TRY(const std::string bytes, ReadFile(path, kMaxModelBytes));
  VARVE_TRY(SentencePieceModel model, SentencePieceModel::Load(bytes));
  std::vector<AddedToken> tokens = model.SpecialTokens();
  DecoderSpec decoder = model.Decoder();
  const std::optional<int32_t> bos_id =
      model.bos_id() < 0 ? std::nullopt : std::optional(model.bos_id());
  const int32_t eos_id = model.eos_id();
  std::vector<std::string> token_text = model.TokenText();
  state_->pipeline = SentencePiecePipeline{std::move(model), config_.prefix_every_segment};
  Hasher64 hasher;
  hasher.Update(bytes);
  HashAddedTokens(config_.added_tokens, &hasher);
  hasher.Update(config_.prefix_every_segment ? "prefix" : "");
  state_->content_hash = hasher.Digest();
  if (config_.eos_token.empty() && eos_id >= 0) {
    config_.eos_token = token_text[static_cast<size_t>(eos_id)];
  }
  state_->token_text = std::move(token_text);
  VARVE_RETURN_IF_ERROR(AddTokens(std::move(tokens), std::move(decoder)));
  return SetEnds(bos_id, bos_id.has_value());
}

Result<void> TokenizerBuilder::AddTokens(std::vector<AddedToken> tokens, DecoderSpec decoder) {
  VARVE_TRY(const std::vector<AddedToken> merged,
            MergeAddedTokens(std::move(tokens), config_.added_tokens, &state_->token_text));
  state_->is_special.resize(state_->token_text.size());
  auto* pipeline = std::get_if<BpePipeline>(&state_->pipeline);
  for (const AddedToken& token : merged) {
    if (token.special) {
      state_->is_special[static_cast<size_t>(token.id)] = true;
    }
    if (pipeline == nullptr || !token.normalized) {
      state_->raw_added.Add(token.content, token);
      continue;
    }
    std::string buffer;
    pipeline->normalized_added.Add(pipeline->normalizer.Apply(token.content, true, &buffer), token);
  }
  state_->decoder = Decoder(std::move(decoder), state_->token_text, merged);
  for (size_t id = 0; id < state_->token_text.size(); ++id) {
    if (!state_->token_text[id].empty()) {
      state_->id_of_token.emplace(state_->token_text[id], static_cast<int32_t>(id));
    }
  }
  return {};
}

// Which tokens begin and end a text. add_bos_token of the config has the last word on the former.
Result<void> TokenizerBuilder::SetEnds(std::optional<int32_t> bos_id_of_file,
                                       bool adds_bos_by_default) {
  const auto id_of = [this](const std::string& token, const char* field) -> Result<int32_t> {
    const auto found = state_->id_of_token.find(token);
    if (found != state_->id_of_token.end()) {
      return found->second;
    }
    return Error{ErrorCode::kBadModel,
                 "tokenizer_config.json: " + std::string(field) + " '" + token +
                     "' is not in the vocabulary."};
  };
  std::optional<int32_t> bos_id = bos_id_of_file;
  if (!config_.bos_token.empty() && !bos_id) {
    VARVE_TRY(bos_id, id_of(config_.bos_token, "bos_token"));
  }
  if (bos_id && static_cast<size_t>(*bos_id) >= state_->token_text.size()) {
    return Error{ErrorCode::kBadModel,
                 "tokenizer.json: post_processor names an id that is not in the vocabulary."};
  }
  if (config_.add_bos_token.value_or(adds_bos_by_default)) {
    state_->bos_id = bos_id;
  }
  state_->bos_token = config_.bos_token;
  if (state_->bos_token.empty() && bos_id) {
    state_->bos_token = state_->token_text[static_cast<size_t>(*bos_id)];
  }
  state_->eos_token = config_.eos_token;
  std::vector<int32_t> eos_ids = config_.eos_ids;
  if (!config_.eos_token.empty()) {
    VARVE_TRY(const int32_t id, id_of(config_.eos_token, "eos_token"));
    eos_ids.push_back(id);
  }
  for (const int32_t id : eos_ids) {
    if (std::find(state_->eos_ids.begin(), state_->eos_ids.end(), id) == state_->eos_ids.end()) {
      state_->eos_ids.push_back(id);
    }
  }
  state_->chat_template = config_.chat_template;
  return {};
}

Result<std::shared_ptr<const Tokenizer>> TokenizerBuilder::Build(const std::string& model_dir) {
  VARVE_TRY(TokenizerConfig config, ReadTokenizerConfig(model_dir));
  TokenizerBuilder builder(std::move(config));
  const std::string json_path = model_dir + "/tokenizer.json";
  const std::string model_path = model_dir + "/tokenizer.model";
  if (FileExists(json_path)) {
    VARVE_RETURN_IF_ERROR(builder.ReadJson(json_path));
  } else if (FileExists(model_path)) {
    VARVE_RETURN_IF_ERROR(builder.ReadSentencePiece(model_path));
  } else {
    return Error{ErrorCode::kNotFound,
                 model_dir + " has neither tokenizer.json nor tokenizer.model."};
  }
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(builder.state_)));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  return TokenizerBuilder::Build(model_dir);
}

}  // namespace varve
