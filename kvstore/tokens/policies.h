// The token policies there are, and what they share. registry.cc lists them for everyone else.
#pragma once

#include <cstdint>
#include <span>

#include "kvstore/tokens/token_policy.h"

namespace varve {

// A policy that gives every token of every head a number and keeps the highest. Among equals, and
// without anything to go by, the newer token stays.
class ScoringPolicy : public TokenPolicy {
 public:
  // scores: [num_kv_heads, num_tokens]
  virtual void Scores(const PageTokens& page, std::span<float> scores) const = 0;
  // How many to keep, given the scores: MostKept unless a policy says otherwise.
  virtual int32_t NumKept(const PageTokens& page,
                          const TokenBudget& budget,
                          std::span<const float> scores) const;
  void Choose(const PageTokens& page, const TokenBudget& budget, KeptTokens& kept) const final;
};

// Writes the tokens by score, the highest first. order: [num_tokens], out. Scores that are not
// numbers come last.
void OrderByScore(std::span<const float> scores, std::span<int32_t> order);
// The mass of each kv head: the sum over its q heads. out: [num_kv_heads, num_tokens]
void SumOverGroups(const PageTokens& page, std::span<float> out);

const TokenPolicy& L2NormPolicy();
const TokenPolicy& StreamingPolicy();

}  // namespace varve
