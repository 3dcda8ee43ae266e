// Turns tokens into text as they arrive. What Push and Flush give, strung together, is what
// Tokenizer::Decode gives for all the tokens at once, and every part of it is UTF-8: bytes of an
// unfinished code point wait for their rest.
//
// Bytes that never become a code point are U+FFFD, one for each maximal cut-short sequence (the
// reference libraries give one per byte token if any byte of the run of byte tokens is bad; a
// stream cannot take back what it said).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "coordinator/tokenizer/tokenizer.h"

namespace varve {

// Not synchronised: one per answer.
class StreamingDetokenizer {
 public:
  // `is_continuation`: the tokens follow others, so a blank at their start is text and stays.
  StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                       bool skip_special,
                       bool is_continuation = false);

  // The text that became complete with this token, often empty inside a code point.
  std::string Push(int32_t id);

  // What is left when no more tokens come: the replacement of an unfinished code point, or nothing.
  std::string Flush();

 private:
  friend class Tokenizer;
  StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special);
  void Append(int32_t id, std::string* out);
  void EmitComplete(std::string* out);

  std::shared_ptr<const Tokenizer> owner_;  // null inside Tokenizer::Decode
  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool seen_token_ = false;
  size_t num_spaces_to_strip_;
  std::string pending_;  // bytes of an unfinished code point
};

}  // namespace varve
