// The bytes that each token stands for. Immutable after construction.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/tokenizer/tokenizer_spec.h"

namespace varve {

class Decoder {
 public:
  Decoder() = default;
  // `token_text` is [vocab_size]; the text of `added_tokens` is not in the byte-level alphabet.
  Decoder(DecoderSpec spec,
          const std::vector<std::string>& token_text,
          const std::vector<AddedToken>& added_tokens);

  // Empty for an id that is not in use. Strung together they may be cut inside a code point.
  std::string_view BytesOf(int32_t id) const;
  // The same for the first token of a text.
  std::string FirstBytesOf(int32_t id, std::string_view token_text) const;
  // Its blanks are never stripped, and it ends the start of the text.
  bool KeepsBlanks(int32_t id) const { return id == spec_.unk_id; }
  // At most so many blanks at the start of a text are not part of it.
  size_t num_stripped_spaces() const { return spec_.num_stripped_spaces; }

 private:
  std::string Convert(std::string_view token_text) const;

  DecoderSpec spec_;
  std::vector<std::string> bytes_;  // [vocab_size]
};

}  // namespace varve
