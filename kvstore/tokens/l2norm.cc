// Keys of small norm get the most attention, so they stay (2406.11430). The first two layers, where
// this does not hold, stay whole.
#include <algorithm>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kWholeLayers = 2;

class L2Norm final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "l2norm"; }

  int32_t MostKept(const TokenBudget& budget) const override {
    return budget.layer < kWholeLayers ? budget.num_tokens : TokenPolicy::MostKept(budget);
  }

  void Scores(const PageTokens& page, std::span<float> scores) const override {
    const auto head_dim = static_cast<size_t>(page.head_dim);
    const auto num_tokens = static_cast<size_t>(page.num_tokens);
    const auto num_heads = static_cast<size_t>(page.num_kv_heads);
    for (size_t head = 0; head < num_heads; ++head) {
      for (size_t token = 0; token < num_tokens; ++token) {
        const float* key = page.k + (token * num_heads + head) * head_dim;
        float square = 0;
        for (size_t d = 0; d < head_dim; ++d) {
          square += key[d] * key[d];
        }
        scores[head * num_tokens + token] = -square;
      }
    }
  }
};

}  // namespace

const TokenPolicy& L2NormPolicy() {
  static const L2Norm kPolicy;
  return kPolicy;
}

}  // namespace varve
