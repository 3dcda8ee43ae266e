// Reads tokenizer.json (the Hugging Face tokenizers format) as far as byte-level and
// SentencePiece-style BPE need it.
//
// Refused by the name of the field: every other model, normalizer, pre-tokenizer, post-processor or
// decoder, and every field that is not understood. Read and ignored, as the reference library's
// users do: truncation, padding, trim_offsets (offsets are not computed).
#pragma once

#include "coordinator/tokenizer/json_fields.h"
#include "coordinator/tokenizer/tokenizer_spec.h"

namespace varve {

Result<TokenizerJson> ReadTokenizerJson(const Json& json);

// The parts, for ReadTokenizerJson. `is_byte_level` tells whether tokens are spelled in the
// byte-level alphabet.
struct PreTokenizerJson {
  std::vector<PreTokenizerStep> steps;
  bool is_byte_level = false;
};
Result<std::vector<NormalizerStep>> ReadNormalizerJson(const JsonAt& normalizer);
Result<PreTokenizerJson> ReadPreTokenizerJson(const JsonAt& pre_tokenizer);
Result<DecoderSpec> ReadDecoderJson(const JsonAt& decoder);
Result<AddedToken> ReadAddedTokenJson(const JsonAt& token, int32_t id);
// Fills json->bpe and json->token_text; the added tokens must be there already.
Result<void> ReadModelJson(const JsonAt& model, bool is_byte_level, TokenizerJson* json);

}  // namespace varve
