// Text on one side, token ids on the other: what the coordinator needs of the model's tokenizer and
// chat template.
//
// The production implementation reads a model directory (LoadTextModel). Tests give a trivial one,
// so that engine and HTTP can be tested without a vocabulary.
//
// Threads: a TextModel is immutable and may be used from any thread; a TextStream belongs to one
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/chat_template/chat_template.h"
#include "proto/base/clock.h"
#include "proto/base/result.h"

namespace varve {

// Turns the tokens of one sequence into text, never splitting a code point.
class TextStream {
 public:
  virtual ~TextStream() = default;
  // Text that `token` completes; may be empty.
  virtual std::string Push(int32_t token) = 0;
  // What is left at the end: bytes of an incomplete code point come out as U+FFFD.
  virtual std::string Finish() = 0;
};

class TextModel {
 public:
  virtual ~TextModel() = default;

  // A piece of a document. Special tokens in it are plain text. Adds no BOS.
  virtual Result<std::vector<int32_t>> EncodeDocument(std::string_view piece,
                                                      bool is_continuation) const = 0;
  // A prompt or a rendered chat: names of special tokens become these tokens. Adds no BOS.
  virtual Result<std::vector<int32_t>> EncodePrompt(std::string_view text,
                                                    bool is_continuation) const = 0;
  // How many leading bytes of `text` (at most max_bytes, at least 1) may be encoded on their own.
  // REQUIRES: text is not empty.
  virtual size_t SplitPoint(std::string_view text, size_t max_bytes) const = 0;

  virtual std::unique_ptr<TextStream> NewStream() const = 0;
  // The text of one token, as logprobs show it: U+FFFD for part of a code point.
  virtual std::string TokenText(int32_t token) const = 0;

  // What begins a prompt without a context: what the tokenizer itself would put there.
  virtual std::optional<int32_t> bos_id() const = 0;
  // What begins a context: the same, or the BOS that only the chat template writes, because the
  // model has seen every sequence begin with it.
  virtual std::optional<int32_t> context_bos_id() const = 0;
  virtual bool IsEos(int32_t token) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual uint64_t content_hash() const = 0;  // of the tokenizer: contexts are bound to it

  // The messages as the model was trained to see them, with the cue for the assistant's answer at
  // the end. With `is_continuation` the text goes on behind a context, which begins with the BOS:
  // the rendered BOS is left out. kUnsupported if the model has no chat template; kInvalidArgument
  // if the template refuses the messages.
  virtual Result<std::string> RenderChat(const ChatMessages& messages,
                                         bool is_continuation) const = 0;
};

// Reads tokenizer and chat template of a Hugging Face model directory. `clock` tells templates the
// date; it must outlive the text model. A chat template that Varve cannot read does not fail the
// load: RenderChat says what is wrong with it.
Result<std::unique_ptr<TextModel>> LoadTextModel(const std::string& model_dir, const Clock* clock);

}  // namespace varve
