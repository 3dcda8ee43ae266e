// Heavy hitters: the tokens with most accumulated attention stay (2306.14048). All observed queries
// count, those of the page itself included, which favours its early tokens as in the paper. The
// other half of the paper's budget, the newest tokens, is the recent window, which is whole anyway.
#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

class H2O final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "h2o"; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return page_tokens + recent_window_tokens;
  }
  void Scores(const PageTokens& page, std::span<float> scores) const override {
    SumOverGroups(page, scores);
  }
};

}  // namespace

const TokenPolicy& H2OPolicy() {
  static const H2O kPolicy;
  return kPolicy;
}

}  // namespace varve
