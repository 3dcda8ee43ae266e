// Sinks and recent tokens only (StreamingLLM, 2309.17453). With keep 0, the paper's form, nothing
// else of a sealed page stays; recent_window_tokens says how many recent tokens there are. A share
// above 0 keeps that much of each page, its newest tokens: a choice by position alone, to compare
// the other policies with at equal bytes.
#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

class Streaming final : public ScoringPolicy {
 public:
  std::string_view name() const override { return "streaming"; }
  bool may_keep_nothing() const override { return true; }

  void Scores(const PageTokens& page, std::span<float> scores) const override {
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = static_cast<float>(i % static_cast<size_t>(page.num_tokens));
    }
  }
};

}  // namespace

const TokenPolicy& StreamingPolicy() {
  static const Streaming kPolicy;
  return kPolicy;
}

}  // namespace varve
