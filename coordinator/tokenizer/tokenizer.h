// Text to token ids and back, as the model's own tokenizer files define it.
//
// Load reads tokenizer.json (byte-level BPE and SentencePiece-style BPE; see tokenizer_json.h for
// what is refused) or, where there is none, tokenizer.model (through the sentencepiece library). A
// Tokenizer is immutable: any number of threads may use one at a time.
//
// Text that is not UTF-8 is encoded as the text in which every bad sequence is U+FFFD (utf8.h):
// what the reference libraries give after a lossy decode. Decode never gives anything but UTF-8, by
// the same rule. The reference's clean_up_tokenization_spaces (" ." -> ".") is not applied: Decode
// gives back what was encoded.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

namespace varve {

struct EncodeOptions {
  // Finds special tokens (<|im_end|>) in the text. Without it they are ordinary text, so that a
  // document cannot speak as somebody else. Added tokens that the model does not call special are
  // vocabulary and always found.
  bool parse_special = false;
  // The text continues an earlier piece: no blank is put before it.
  bool is_continuation = false;
};

class Tokenizer {
 public:
  // kNotFound if the directory has neither file, kBadModel if a file is malformed, kUnsupported
  // (naming the field) if it asks for what Varve does not have.
  static Result<std::shared_ptr<const Tokenizer>> Load(const std::string& model_dir);

  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  ~Tokenizer();

  // No BOS is added: see bos_id(). Time is n log n at worst, linear for text with blanks. REQUIRES:
  // under 1 GB.
  std::vector<int32_t> Encode(std::string_view text, EncodeOptions options = {}) const;

  // Ids that the tokenizer does not have are left out. See detokenizer.h for text that arrives
  // token by token.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // One more than the highest id.
  int32_t vocab_size() const;
  std::optional<int32_t> TokenToId(std::string_view token) const;
  // As written in the vocabulary ("Ġthe", "▁the"); nullopt if there is no such id.
  std::optional<std::string_view> IdToToken(int32_t id) const;
  bool IsSpecial(int32_t id) const;

  // The token that the model wants before a text, nullopt if it wants none.
  std::optional<int32_t> bos_id() const;
  // The tokens that end an answer: those of generation_config.json (else config.json) and
  // eos_token(), without repeats.
  const std::vector<int32_t>& eos_ids() const;
  // For the chat template; empty if the model has none.
  const std::string& bos_token() const;
  const std::string& eos_token() const;
  const std::string& chat_template() const;

  // XXH3 over the bytes of the files that decide what ids a text has. Contexts bind it. Chat
  // templates, BOS and EOS are not part of it.
  uint64_t content_hash() const;

 private:
  friend class StreamingDetokenizer;
  friend class TokenizerBuilder;
  struct State;
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

}  // namespace varve
