// PyramidKV (2406.02069): SnapKV's choice by the last eight queries, with a share that falls
// linearly over the layers, from wide attention at the bottom to narrow at the top. `keep` is the
// mean share of the layers.
#include <algorithm>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kLastQueries = 8;
// The last layer gets a twentieth of the mean, unless the first would then have to keep more than
// there is.
constexpr double kLastShareDivisor = 20;

class PyramidKv final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "pyramidkv"; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return LastQueries(kLastQueries, page_tokens, recent_window_tokens);
  }
  int32_t MostKept(const TokenBudget& budget) const override {
    const double first_share = std::min(1.0, 2 * budget.keep - budget.keep / kLastShareDivisor);
    const double last_share = 2 * budget.keep - first_share;
    const double depth = budget.num_layers > 1 ? static_cast<double>(budget.layer) /
                                                     static_cast<double>(budget.num_layers - 1)
                                               : 0.5;
    TokenBudget own = budget;
    own.keep = first_share + (last_share - first_share) * depth;
    return TokenPolicy::MostKept(own);
  }
  void Scores(const PageTokens& page, std::span<float> scores) const override {
    PooledMass(page, scores);
  }
};

}  // namespace

const TokenPolicy& PyramidKvPolicy() {
  static const PyramidKv kPolicy;
  return kPolicy;
}

}  // namespace varve
