// Token policies: which tokens of a page stay when it is sealed. One file each, listed in one
// registry (registry.cc), composable with every codec: a policy names tokens, and the kept ones are
// gathered per kv head and encoded as if they were the run.
//
// A policy sees one page of one layer at a time and is a pure function of what it sees, so that
// what stays depends neither on how many workers there are nor on how the text was cut into steps.
// Sinks are not offered to it: they always stay. All kv heads keep the same number of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "proto/base/result.h"
#include "proto/kv_policy.h"

namespace varve {

// The page that is about to be sealed, without its sinks.
struct PageTokens {
  int32_t num_tokens = 0;
  int32_t num_kv_heads = 0;
  int32_t num_qo_heads = 0;  // a multiple of num_kv_heads; 0 if no queries were observed
  int32_t head_dim = 0;
  float sm_scale = 1.0F;
  const float* k = nullptr;  // [num_tokens, num_kv_heads, head_dim], exact, after RoPE
  const float* v = nullptr;  // [num_tokens, num_kv_heads, head_dim], exact
  // The attention mass that the observed queries gave each token, summed over the queries; zeros if
  // there were none (observed_queries.h).
  std::span<const float> mass;  // [num_qo_heads, num_tokens]
};

// What a policy may keep of a page.
struct TokenBudget {
  double keep = 1.0;  // KvPolicy::keep
  int32_t layer = 0;
  int32_t num_layers = 1;
  int32_t num_tokens = 0;  // of the page, without its sinks
};

struct KeptTokens {
  int32_t num_kept = 0;          // per kv head
  std::vector<int32_t> indices;  // [num_kv_heads, num_kept] into the page's tokens, ascending
  std::vector<float> weights;    // [num_kv_heads, num_kept] if the policy has weights, else empty
};

class TokenPolicy {
 public:
  virtual ~TokenPolicy() = default;

  virtual std::string_view name() const = 0;  // as users write it
  // Of the queries of the page's own tokens and of the recent window behind it, how many (the last
  // ones) the policy wants to have observed.
  virtual int32_t NumObservedQueries(int32_t /*page_tokens*/,
                                     int32_t /*recent_window_tokens*/) const {
    return 0;
  }
  // True if kept tokens stand for others: they then count in the softmax by their weight.
  virtual bool has_weights() const { return false; }
  // True if `keep` may be 0: nothing of a sealed page stays but sinks.
  virtual bool may_keep_nothing() const { return false; }
  // True if Choose may keep fewer tokens than MostKept says.
  virtual bool size_depends_on_data() const { return false; }

  // The number of tokens that stay, or the most that may. ceil(keep * num_tokens), at least one,
  // unless a policy says otherwise.
  virtual int32_t MostKept(const TokenBudget& budget) const;
  // Not called where all tokens stay anyway. `kept` may hold an earlier result.
  virtual void Choose(const PageTokens& page,
                      const TokenBudget& budget,
                      KeptTokens& kept) const = 0;
};

// The policy that KvPolicy::tokens names, or null for "all", which prunes nothing. Errors:
// kInvalidArgument (no such name; the names there are; a `keep` out of its range), kUnsupported (a
// policy that needs what this build does not have).
Result<const TokenPolicy*> FindTokenPolicy(const KvPolicy& policy);
std::span<const TokenPolicy* const> AllTokenPolicies();

}  // namespace varve
