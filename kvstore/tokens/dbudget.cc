// DBudgetKV (2502.16886): no budget given beforehand; tokens go while what is lost stays within one
// percent. Here: the fewest tokens that hold 99 % of the observed mass in every head, but at least
// `keep` of them. The paper measures the norm of the attention matrix instead of its mass.
#include <algorithm>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kLastQueries = 32;
constexpr double kRetainedMass = 0.99;

class DBudget final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "dbudget"; }
  bool size_depends_on_data() const override { return true; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return LastQueries(kLastQueries, page_tokens, recent_window_tokens);
  }
  int32_t MostKept(const TokenBudget& budget) const override { return budget.num_tokens; }
  void Scores(const PageTokens& page, std::span<float> scores) const override {
    SumOverGroups(page, scores);
  }
  int32_t NumKept(const PageTokens& page,
                  const TokenBudget& budget,
                  std::span<const float> scores) const override {
    const MassShare mass(page, scores);
    const int32_t least = TokenPolicy::MostKept(budget);
    return mass.has_mass() ? std::max(least, mass.NumReachingInEachHead(kRetainedMass))
                           : budget.num_tokens;
  }
};

}  // namespace

const TokenPolicy& DBudgetPolicy() {
  static const DBudget kPolicy;
  return kPolicy;
}

}  // namespace varve
