// BalanceKV (2502.07861): tokens are halved, round by round, so that the sum that attention takes
// changes least: a signed walk over the features exp(k . k') (v . v' + 1) picks one of each pair of
// neighbours, which from then on counts for both. What stays is chosen for queries in general: none
// are observed.
//
// The walk takes the sign that shortens its sum at once, where the paper draws it with a bias in
// that direction: pages must come out the same each time. A budget that is no power of one half is
// met exactly, by halving only the oldest tokens in the last round.
#include <algorithm>
#include <cmath>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

// The walk starts anew after so many tokens: it costs the square of them.
constexpr size_t kBatchTokens = 128;

struct WeightedToken {
  int32_t token;
  float weight;
};

// The tokens of one kv head as vectors of which only products are known.
class Features {
 public:
  Features(const PageTokens& page, size_t head) : page_(page), head_(head) {
    for (int32_t token = 0; token < page.num_tokens; ++token) {
      highest_ = std::max(highest_, Dot(page.k, token, token));
    }
  }

  // Scaled by a constant, so that the exponential cannot overflow.
  float Product(const WeightedToken& a, const WeightedToken& b) const {
    const float keys = page_.sm_scale * (Dot(page_.k, a.token, b.token) - highest_);
    return a.weight * b.weight * std::exp(keys) * (Dot(page_.v, a.token, b.token) + 1);
  }

 private:
  float Dot(const float* rows, int32_t a, int32_t b) const {
    const auto head_dim = static_cast<size_t>(page_.head_dim);
    const auto num_heads = static_cast<size_t>(page_.num_kv_heads);
    const float* x = rows + (static_cast<size_t>(a) * num_heads + head_) * head_dim;
    const float* y = rows + (static_cast<size_t>(b) * num_heads + head_) * head_dim;
    float sum = 0;
    for (size_t d = 0; d < head_dim; ++d) {
      sum += x[d] * y[d];
    }
    return sum;
  }

  const PageTokens& page_;
  size_t head_;
  float highest_ = 0;
};

// Of each pair of `tokens` one stays and takes the other's weight; the walk adds what stays and
// subtracts what goes.
std::vector<WeightedToken> Halve(const Features& features, std::span<const WeightedToken> tokens) {
  std::vector<WeightedToken> kept;
  for (size_t begin = 0; begin < tokens.size(); begin += kBatchTokens) {
    const size_t end = std::min(begin + kBatchTokens, tokens.size());
    std::vector<std::pair<WeightedToken, WeightedToken>> walk;  // (stayed, went)
    for (size_t i = begin; i + 1 < end; i += 2) {
      const WeightedToken& older = tokens[i];
      const WeightedToken& newer = tokens[i + 1];
      float along = 0;  // <walk, newer - older>
      for (const auto& [stayed, went] : walk) {
        along += features.Product(stayed, newer) - features.Product(stayed, older) -
                 features.Product(went, newer) + features.Product(went, older);
      }
      const bool keep_older = along > 0;
      walk.emplace_back(keep_older ? older : newer, keep_older ? newer : older);
      kept.push_back({walk.back().first.token, older.weight + newer.weight});
    }
  }
  return kept;
}

class BalanceKv final : public TokenPolicy {
 public:
  std::string_view name() const override { return "balancekv"; }
  bool has_weights() const override { return true; }
  void Choose(const PageTokens& page, const TokenBudget& budget, KeptTokens& kept) const override {
    kept.num_kept = MostKept(budget);
    kept.indices.clear();
    kept.weights.clear();
    for (int32_t head = 0; head < page.num_kv_heads; ++head) {
      for (const WeightedToken& token : ChooseOfHead(page, head, kept.num_kept)) {
        kept.indices.push_back(token.token);
        kept.weights.push_back(token.weight);
      }
    }
  }

 private:
  static std::vector<WeightedToken> ChooseOfHead(const PageTokens& page,
                                                 int32_t head,
                                                 int32_t num_kept) {
    const Features features(page, static_cast<size_t>(head));
    const auto wanted = static_cast<size_t>(num_kept);
    std::vector<WeightedToken> tokens;
    for (int32_t token = 0; token < page.num_tokens; ++token) {
      tokens.push_back({token, 1.0F});
    }
    while (tokens.size() > wanted) {
      const size_t halved = 2 * std::min(tokens.size() - wanted, tokens.size() / 2);
      std::vector<WeightedToken> next = Halve(features, std::span(tokens).first(halved));
      next.insert(next.end(), tokens.begin() + static_cast<ptrdiff_t>(halved), tokens.end());
      tokens = std::move(next);
    }
    return tokens;
  }
};

}  // namespace

const TokenPolicy& BalanceKvPolicy() {
  static const BalanceKv kPolicy;
  return kPolicy;
}

}  // namespace varve
