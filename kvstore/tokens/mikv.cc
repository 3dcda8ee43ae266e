// MiKV, "No Token Left Behind" (2402.18096): no token goes. The share `keep` of a page's tokens
// with most accumulated attention stays in the context's codec (the heavy hitters of h2o.cc, by the
// same measure; the newest tokens are the recent window, which is exact anyway), and what an
// eviction policy would drop stays in rot2.
//
// The paper balances the channels of keys and queries before it rounds keys to few bits, with
// factors that it measures in the prompt: a rotation takes their place, which needs no factors and
// spreads outliers over all channels.
#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

class MiKv final : public TokenPolicy {
 public:
  std::string_view name() const override { return "mikv"; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return page_tokens + recent_window_tokens;
  }
  std::span<const Codec* const> further_codecs() const override {
    static const Codec* const kCodecs[] = {FindCodec(CodecId::kRot2).value()};
    return kCodecs;
  }
  int32_t MostKept(const TokenBudget& budget) const override { return budget.num_tokens; }
  ClassSizes SizesOf(const TokenBudget& budget) const override {
    const int32_t important = TokenPolicy::MostKept(budget);
    return {important, budget.num_tokens - important};
  }
  void Choose(const PageTokens& page, const TokenBudget& budget, KeptTokens& kept) const override {
    std::vector<float> scores(static_cast<size_t>(page.num_kv_heads) *
                              static_cast<size_t>(page.num_tokens));
    SumOverGroups(page, scores);
    PlaceByScore(page, scores, SizesOf(budget), kept);
  }
};

}  // namespace

const TokenPolicy& MiKvPolicy() {
  static const MiKv kPolicy;
  return kPolicy;
}

}  // namespace varve
