// A model's chat template: turns a conversation into the text that the model was trained to
// continue.
//
// Templates are Jinja2, as Hugging Face models ship them; this is an interpreter for the part of
// the language that they use, with white space as transformers settles it (trim_blocks,
// lstrip_blocks). What it does not have is refused by name when the template is parsed: see
// jinja_parser.h. A template comes from a stranger: its nesting, its work and the length of its
// output are limited, and it can neither read nor change anything outside its arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

namespace varve {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", ...
  std::string content;  // UTF-8
};
using ChatMessages = std::vector<ChatMessage>;

struct RenderOptions {
  bool add_generation_prompt = true;  // end with what precedes the assistant's answer
  std::string bos_token;
  std::string eos_token;
  // More variables, as a JSON object: {"enable_thinking": false, "tools": [...]}. They win over
  // those above.
  std::string variables_json = "{}";
  int64_t now_unix_s = 0;  // what strftime_now tells, in UTC
  size_t max_output_bytes = size_t{256} << 20;
};

// Immutable: any number of threads may render at a time. Copies share the parsed template.
class ChatTemplate {
 public:
  static constexpr size_t kMaxSourceBytes = size_t{1} << 20;

  // kInvalidArgument if it is no Jinja2, kUnsupported (naming the construct and its line) for what
  // Varve does not have.
  static Result<ChatTemplate> Parse(std::string_view source);

  // The prompt. kInvalidArgument if the template refuses the messages (raise_exception: the message
  // is the template's own), goes wrong on them, or exceeds a limit. Text that is not UTF-8 is
  // repaired as Tokenizer::Encode does.
  Result<std::string> Render(const ChatMessages& messages, const RenderOptions& options) const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed);
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace varve
