// SnapKV (2404.14469): the mass that the last queries give, averaged over neighbouring tokens so
// that what surrounds an important token stays with it. The last queries are those at the end of
// the recent window behind the page.
#include <algorithm>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kLastQueries = 32;
constexpr size_t kPoolTokens = 5;

class SnapKv final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "snapkv"; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return LastQueries(kLastQueries, page_tokens, recent_window_tokens);
  }
  void Scores(const PageTokens& page, std::span<float> scores) const override {
    PooledMass(page, scores);
  }
};

}  // namespace

void PooledMass(const PageTokens& page, std::span<float> out) {
  const auto num_tokens = static_cast<size_t>(page.num_tokens);
  std::vector<float> mass(out.size());
  SumOverGroups(page, mass);
  for (size_t row = 0; row < mass.size(); row += num_tokens) {
    for (size_t token = 0; token < num_tokens; ++token) {
      const size_t begin = token < kPoolTokens / 2 ? 0 : token - kPoolTokens / 2;
      const size_t end = std::min(token + kPoolTokens / 2 + 1, num_tokens);
      float sum = 0;
      for (size_t i = begin; i < end; ++i) {
        sum += mass[row + i];
      }
      // At the page's ends there are fewer neighbours, which must not count against a token.
      out[row + token] = sum / static_cast<float>(end - begin);
    }
  }
}

const TokenPolicy& SnapKvPolicy() {
  static const SnapKv kPolicy;
  return kPolicy;
}

}  // namespace varve
