// What a Tokenizer is made of. For tokenizer.cc, tokenizer_load.cc and detokenizer.cc only.
#pragma once

#include <mutex>
#include <unordered_map>
#include <variant>

#include "coordinator/tokenizer/added_tokens.h"
#include "coordinator/tokenizer/bpe_model.h"
#include "coordinator/tokenizer/decoder.h"
#include "coordinator/tokenizer/normalizer.h"
#include "coordinator/tokenizer/pre_tokenizer.h"
#include "coordinator/tokenizer/sentencepiece_model.h"
#include "coordinator/tokenizer/tokenizer.h"

namespace varve {

// Working memory of one Encode call.
struct EncodeScratch {
  PreTokenizer::Scratch pre_tokenizer;
  BpeModel::Scratch bpe;
  std::vector<AddedTokenFinder::Found> raw_found;
  std::vector<AddedTokenFinder::Found> normalized_found;
  std::string normalized;
};

// Lends scratches to Encode calls, so that caches outlive a call and no two calls share one. As
// many exist as there were calls at one time.
class ScratchPool {
 public:
  std::unique_ptr<EncodeScratch> Take();
  void Give(std::unique_ptr<EncodeScratch> scratch);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<EncodeScratch>> idle_;
};

// tokenizer.json: normalize, pre-tokenize, merge.
struct BpePipeline {
  Normalizer normalizer;
  AddedTokenFinder normalized_added;  // added tokens that are looked for in normalized text
  PreTokenizer pre_tokenizer;
  BpeModel model;
};

// tokenizer.model: the library does all of it.
struct SentencePiecePipeline {
  SentencePieceModel model;
  bool prefix_every_segment = true;  // text behind a special token gets a blank before it, too
};

struct Tokenizer::State {
  std::variant<BpePipeline, SentencePiecePipeline> pipeline;
  AddedTokenFinder raw_added;  // added tokens that are looked for in the text as it came
  Decoder decoder;
  std::vector<std::string> token_text;  // [vocab_size], empty where an id is not used
  std::vector<bool> is_special;         // [vocab_size]
  std::unordered_map<std::string_view, int32_t> id_of_token;  // views of token_text
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;
  std::string bos_token;
  std::string eos_token;
  std::string chat_template;
  uint64_t content_hash = 0;
  mutable ScratchPool scratches;
};

}  // namespace varve
