// The token policies there are, and what they share. registry.cc lists them for everyone else.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

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
// Places the tokens of each head by score: the highest in class 0, the next in class 1, and so on.
// scores: [num_kv_heads, num_tokens]
void PlaceByScore(const PageTokens& page,
                  std::span<const float> scores,
                  const ClassSizes& sizes,
                  KeptTokens& kept);
// The mass of each kv head: the sum over its q heads. out: [num_kv_heads, num_tokens]
void SumOverGroups(const PageTokens& page, std::span<float> out);

// The mass of each kv head, averaged over five neighbouring tokens (snapkv.cc). out: [num_kv_heads,
// num_tokens]
void PooledMass(const PageTokens& page, std::span<float> out);
// `wanted` last queries, or as many as there are.
inline int32_t LastQueries(int32_t wanted, int32_t page_tokens, int32_t recent_window_tokens) {
  return std::min(wanted, page_tokens + recent_window_tokens);
}

// How many of the tokens with most mass hold which share of a page's mass.
class MassShare {
 public:
  // mass: [num_kv_heads, num_tokens], not negative
  MassShare(const PageTokens& page, std::span<const float> mass);

  bool has_mass() const;
  // The fewest tokens (at least one, the same number for each head) whose mass reaches `share` of
  // that of all heads together, or of each head.
  int32_t NumReaching(double share) const;
  int32_t NumReachingInEachHead(double share) const;

 private:
  float Of(size_t num_kept) const;

  size_t num_tokens_;
  std::vector<float> sums_;  // [num_kv_heads, num_tokens]; mass of the first 1, 2, ... tokens
};

const TokenPolicy& StreamingPolicy();
const TokenPolicy& L2NormPolicy();
const TokenPolicy& H2OPolicy();
const TokenPolicy& SnapKvPolicy();
const TokenPolicy& PyramidKvPolicy();
const TokenPolicy& PrefixKvPolicy();
const TokenPolicy& DBudgetPolicy();
const TokenPolicy& KvCrushPolicy();
const TokenPolicy& BalanceKvPolicy();
const TokenPolicy& MiKvPolicy();
const TokenPolicy& QaqPolicy();

}  // namespace varve
