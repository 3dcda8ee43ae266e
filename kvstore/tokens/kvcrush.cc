// KVCrush (2503.00022): three quarters of the budget are the tokens with most attention; the others
// go, but not without a trace. Each is described by one bit per q head (would this head have kept
// it?), they are ordered by the Hamming distance to an anchor and cut into as many groups as the
// last quarter of the budget has places; of each group the token with most attention stays and
// stands for the group: its weight is the group's size. The anchor is the majority's bit in each
// head.
#include <algorithm>
#include <numeric>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kLastQueries = 32;
constexpr int32_t kRepresentativeShare = 4;  // one in so many

struct KeptToken {
  int32_t token;
  float weight;
};

// distance[t]: in how many q heads the bit of token t differs from the majority's.
std::vector<int32_t> AnchorDistances(const PageTokens& page, size_t num_important) {
  const auto num_tokens = static_cast<size_t>(page.num_tokens);
  std::vector<int32_t> distance(num_tokens);
  std::vector<int32_t> order(num_tokens);
  const bool anchor = 2 * num_important > num_tokens;
  for (int32_t head = 0; head < page.num_qo_heads; ++head) {
    OrderByScore(page.mass.subspan(static_cast<size_t>(head) * num_tokens, num_tokens), order);
    for (size_t rank = 0; rank < num_tokens; ++rank) {
      const bool bit = rank < num_important;
      distance[static_cast<size_t>(order[rank])] += bit == anchor ? 0 : 1;
    }
  }
  return distance;
}

// Replaces each of `num_groups` groups of the tokens [first, end), which are in order of mass, by
// its best token.
void AddRepresentatives(std::span<const int32_t> by_mass,
                        std::span<const int32_t> distance,
                        size_t num_groups,
                        std::vector<KeptToken>& kept) {
  std::vector<size_t> ranks(by_mass.size());
  std::iota(ranks.begin(), ranks.end(), size_t{0});
  std::stable_sort(ranks.begin(), ranks.end(), [&](size_t a, size_t b) {
    return distance[static_cast<size_t>(by_mass[a])] < distance[static_cast<size_t>(by_mass[b])];
  });
  for (size_t group = 0; group < num_groups; ++group) {
    const size_t begin = group * ranks.size() / num_groups;
    const size_t end = (group + 1) * ranks.size() / num_groups;
    const size_t best = *std::min_element(ranks.begin() + static_cast<ptrdiff_t>(begin),
                                          ranks.begin() + static_cast<ptrdiff_t>(end));
    kept.push_back({by_mass[best], static_cast<float>(end - begin)});
  }
}

class KvCrush final : public TokenPolicy {
 public:
  std::string_view name() const override { return "kvcrush"; }
  bool has_weights() const override { return true; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return LastQueries(kLastQueries, page_tokens, recent_window_tokens);
  }
  void Choose(const PageTokens& page, const TokenBudget& budget, KeptTokens& kept) const override {
    const auto num_tokens = static_cast<size_t>(page.num_tokens);
    const auto num_kept = static_cast<size_t>(MostKept(budget));
    const size_t num_groups = std::max<size_t>(1, num_kept / kRepresentativeShare);
    const size_t num_important = num_kept - num_groups;
    std::vector<float> scores(static_cast<size_t>(page.num_kv_heads) * num_tokens);
    SumOverGroups(page, scores);
    const std::vector<int32_t> distance = AnchorDistances(page, num_important);
    std::vector<int32_t> order(num_tokens);
    std::vector<KeptToken> tokens;
    kept.num_kept = static_cast<int32_t>(num_kept);
    kept.indices.clear();
    kept.weights.clear();
    for (size_t row = 0; row < scores.size(); row += num_tokens) {
      OrderByScore(std::span(scores).subspan(row, num_tokens), order);
      tokens.clear();
      for (size_t i = 0; i < num_important; ++i) {
        tokens.push_back({order[i], 1.0F});
      }
      AddRepresentatives(
          std::span<const int32_t>(order).subspan(num_important), distance, num_groups, tokens);
      std::sort(tokens.begin(), tokens.end(), [](const KeptToken& a, const KeptToken& b) {
        return a.token < b.token;
      });
      for (const KeptToken& token : tokens) {
        kept.indices.push_back(token.token);
        kept.weights.push_back(token.weight);
      }
    }
  }
};

}  // namespace

const TokenPolicy& KvCrushPolicy() {
  static const KvCrush kPolicy;
  return kPolicy;
}

}  // namespace varve
