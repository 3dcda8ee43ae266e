// Cuts normalized text into the pieces that the model encodes one by one; no token reaches across
// two pieces.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "coordinator/tokenizer/regex.h"

namespace varve {

// What becomes of the matches of a Split pattern.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitRule {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match counts as match, and the other way round
};

// Puts a blank before text that does not start with one.
struct PrefixSpaceRule {};

// Blanks become `replacement`; words start with it.
struct MetaspaceRule {
  enum class Prepend { kAlways, kNever, kFirst };
  std::string replacement;
  Prepend prepend = Prepend::kAlways;  // kFirst: only at the start of the whole text
  std::optional<Regex> split;          // matches the replacement, if words are cut
};

using PreTokenizerStep = std::variant<SplitRule, PrefixSpaceRule, MetaspaceRule>;

// Immutable; any thread may call it with its own Scratch.
class PreTokenizer {
 public:
  struct Scratch {
    struct Step {
      std::vector<TextRange> ranges;
      std::string text;
    };
    Regex::Scratch regex;
    std::vector<Step> steps;
  };

  // Where a piece of text comes from.
  struct Position {
    bool is_text_start = true;     // the first byte of the whole text
    bool is_continuation = false;  // that byte continues an earlier piece: nothing is put before it
  };

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}

  // Calls `emit` with each piece, in order; a piece is valid during its call only.
  // REQUIRES: text is valid UTF-8.
  void Split(std::string_view text,
             Position position,
             Scratch* scratch,
             const std::function<void(std::string_view)>& emit) const;

 private:
  using Emit = std::function<void(std::string_view)>;
  void RunStep(size_t index,
               std::string_view text,
               Position position,
               Scratch* scratch,
               const Emit& emit) const;
  void RunSplit(size_t index,
                std::string_view text,
                Position position,
                Scratch* scratch,
                const Emit& emit) const;

  std::vector<PreTokenizerStep> steps_;
};

}  // namespace varve
