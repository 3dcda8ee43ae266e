// What a tokenizer does to text before it looks for words: Unicode normal forms and literal
// replacements.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace varve {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// Puts `text` before text that is not empty, unless the text continues an earlier piece.
struct PrependRule {
  std::string text;
};

struct ReplaceRule {
  std::string from;  // never empty
  std::string to;
};

using NormalizerStep = std::variant<UnicodeForm, PrependRule, ReplaceRule>;

// Immutable; any thread may call it.
class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  // Returns `text` itself if no step changes it, else a view of `buffer`, which must outlive the
  // view. `at_start`: the text does not continue an earlier piece. REQUIRES: text is valid UTF-8
  // and not in `buffer`.
  std::string_view Apply(std::string_view text, bool at_start, std::string* buffer) const;

 private:
  std::vector<NormalizerStep> steps_;
};

// Appends `text` with every `from`, left to right, replaced by `to`. REQUIRES: !from.empty().
void AppendReplaced(std::string_view text,
                    std::string_view from,
                    std::string_view to,
                    std::string* out);

}  // namespace varve
