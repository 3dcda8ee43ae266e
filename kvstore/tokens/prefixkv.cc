// PrefixKV (2412.03409): tokens sorted by attention, and of each layer the prefix that reaches one
// share of the mass, so that a layer gets as many tokens as its attention is wide. The paper
// searches that share off-line for a budget; a page is sealed once and for all, so here `keep` is
// the share of the mass, over the heads of the page together. The prefix is never longer than the
// same share of the tokens.
#include <algorithm>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kLastQueries = 32;

class PrefixKv final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "prefixkv"; }
  bool size_depends_on_data() const override { return true; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return LastQueries(kLastQueries, page_tokens, recent_window_tokens);
  }
  void Scores(const PageTokens& page, std::span<float> scores) const override {
    SumOverGroups(page, scores);
  }
  int32_t NumKept(const PageTokens& page,
                  const TokenBudget& budget,
                  std::span<const float> scores) const override {
    const MassShare mass(page, scores);
    return mass.has_mass() ? std::min(mass.NumReaching(budget.keep), MostKept(budget))
                           : MostKept(budget);
  }
};

}  // namespace

const TokenPolicy& PrefixKvPolicy() {
  static const PrefixKv kPolicy;
  return kPolicy;
}

}  // namespace varve
