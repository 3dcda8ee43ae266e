#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kvstore/tokens/policies.h"

namespace varve {

void OrderByScore(std::span<const float> scores, std::span<int32_t> order) {
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&scores](int32_t token) {
    const float score = scores[static_cast<size_t>(token)];
    return std::isnan(score) ? -INFINITY : score;
  };
  std::sort(order.begin(), order.end(), [&value](int32_t a, int32_t b) {
    const float score_a = value(a);
    const float score_b = value(b);
    return score_a != score_b ? score_a > score_b : a > b;
  });
}

void SumOverGroups(const PageTokens& page, std::span<float> out) {
  const auto num_tokens = static_cast<size_t>(page.num_tokens);
  const auto kv_heads = static_cast<size_t>(page.num_kv_heads);
  const auto qo_heads = static_cast<size_t>(page.num_qo_heads);
  std::fill(out.begin(), out.end(), 0.0F);
  for (size_t head = 0; head < qo_heads; ++head) {
    float* sums = out.data() + head / (qo_heads / kv_heads) * num_tokens;
    for (size_t token = 0; token < num_tokens; ++token) {
      sums[token] += page.mass[head * num_tokens + token];
    }
  }
}

int32_t ScoringPolicy::NumKept(const PageTokens& /*page*/,
                               const TokenBudget& budget,
                               std::span<const float> /*scores*/) const {
  return MostKept(budget);
}

void ScoringPolicy::Choose(const PageTokens& page,
                           const TokenBudget& budget,
                           KeptTokens& kept) const {
  std::vector<float> scores(static_cast<size_t>(page.num_kv_heads) *
                            static_cast<size_t>(page.num_tokens));
  Scores(page, scores);
  PlaceByScore(page, scores, {NumKept(page, budget, scores)}, kept);
}

void PlaceByScore(const PageTokens& page,
                  std::span<const float> scores,
                  const ClassSizes& sizes,
                  KeptTokens& kept) {
  const auto num_tokens = static_cast<size_t>(page.num_tokens);
  const auto num_heads = static_cast<size_t>(page.num_kv_heads);
  kept.num_kept = std::accumulate(sizes.begin(), sizes.end(), 0);
  kept.class_sizes = sizes;
  kept.weights.clear();
  kept.indices.resize(num_heads * static_cast<size_t>(kept.num_kept));
  std::vector<int32_t> order(num_tokens);
  for (size_t head = 0; head < num_heads; ++head) {
    OrderByScore(scores.subspan(head * num_tokens, num_tokens), order);
    size_t placed = 0;  // of a head, in the classes before
    for (const int32_t size : sizes) {
      const auto count = static_cast<size_t>(size);
      const auto tokens = std::span(order).subspan(placed, count);
      std::sort(tokens.begin(), tokens.end());
      std::copy(tokens.begin(),
                tokens.end(),
                kept.indices.begin() + static_cast<ptrdiff_t>(num_heads * placed + head * count));
      placed += count;
    }
  }
}

}  // namespace varve
