// What the files of a model directory say about its tokenizer, in plain structs: made by the
// readers (tokenizer_json.h, tokenizer_config.h, sentencepiece_model.h), consumed by Tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/tokenizer/added_tokens.h"
#include "coordinator/tokenizer/bpe_model.h"
#include "coordinator/tokenizer/normalizer.h"
#include "coordinator/tokenizer/pre_tokenizer.h"

namespace varve {

// How tokens become text again. The bytes of the tokens are strung together, then the start of the
// text is trimmed.
struct DecoderSpec {
  bool byte_level = false;                // tokens are spelled in the byte-level alphabet
  bool byte_fallback = false;             // <0x41> is the byte 0x41
  std::vector<ReplaceRule> replacements;  // in each token
  size_t num_stripped_spaces = 0;         // at most so many blanks at the start of the text go
  std::string first_token_drops;  // and this string wherever the first token has it; empty: nothing
  int32_t unk_id = kNoToken;      // decodes to unk_surface instead of its spelling
  std::string unk_surface;
};

struct TokenizerJson {
  std::vector<std::string>
      token_text;  // [vocab_size] as written in the file; empty where an id is not used
  std::vector<AddedToken> added_tokens;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  BpeSpec bpe;
  DecoderSpec decoder;
  std::optional<int32_t> template_bos_id;  // the post-processor puts this token before a text
};

// From tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
// chat_template.jinja, as far as they are there.
struct TokenizerConfig {
  std::string bos_token;  // empty: none
  std::string eos_token;
  std::optional<bool> add_bos_token;
  bool prefix_every_segment =
      true;  // "legacy": a blank is put before text behind a special token, too
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder
  std::vector<int32_t> eos_ids;          // generation_config.json, else config.json
  std::string chat_template;             // empty: none
};

}  // namespace varve
