// A pre-tokenizer's pattern, compiled once and matched by many threads.
//
// The vocabularies' patterns are written for Oniguruma; PCRE2 runs them. Where the two disagree the
// pattern is rewritten
// (\s is the White_Space property, PCRE2's also has U+180E) or refused (\h is a hex digit there, a
// blank here).
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

namespace varve {

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
  bool is_match = false;
};

class Regex {
 public:
  // A thread's working memory for matching. Any Regex may use any Scratch, one call at a time.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  // kUnsupported with the offending construct if the pattern does not compile or means something
  // else here.
  static Result<Regex> Compile(std::string_view pattern);
  // Matches exactly the text `literal`.
  static Result<Regex> CompileLiteral(std::string_view literal);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Replaces `ranges` by the matches and what lies between them, in order, without empty ranges (an
  // empty match only splits what lies between). A pattern that exceeds the matcher's memory (8 MB
  // of stack, nothing that the known vocabularies can do) stops matching there: the rest of the
  // text is one unmatched range. REQUIRES: text is valid UTF-8.
  void Partition(std::string_view text, Scratch* scratch, std::vector<TextRange>* ranges) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  static Result<Regex> CompileWith(std::string_view pattern, uint32_t options);
  std::unique_ptr<Code> code_;
};

}  // namespace varve
