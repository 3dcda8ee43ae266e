// Token policies: how precisely each token of a page stays when it is sealed, if at all. One file
// each, listed in one registry (registry.cc), composable with every codec.
//
// For each kv head a policy places every token of a page in a class, or nowhere: then it is gone.
// Class 0 is encoded by the context's codec. A policy may name codecs of further classes, and so
// keep in few bits what it would otherwise drop. The tokens of a class are gathered per kv head and
// encoded as if they were a run: a sealed page has one run for each class that is not empty.
//
// A policy sees one page of one layer at a time and is a pure function of what it sees, so that
// what stays depends neither on how many workers there are nor on how the text was cut into steps.
// Sinks are not offered to it: they always stay. All kv heads have the same number of tokens in a
// class.
//
// `clusterkv` is none of them: it keeps every token, and its share says how many pages a request
// reads (SelectsPages). Next: kvstore/page_chooser.h
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/codec/codec.h"
#include "proto/base/result.h"
#include "proto/kv_policy.h"

namespace varve {

inline constexpr size_t kMaxTokenClasses = 4;
// Tokens per kv head in each class; 0 in the classes that a policy does not have.
using ClassSizes = std::array<int32_t, kMaxTokenClasses>;

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
  int32_t num_queries = 0;      // that were observed
  // The norm that one in ten of them exceeds; zeros if there were none.
  std::span<const float> query_norms;  // [num_qo_heads]
};

// What a policy may keep of a page.
struct TokenBudget {
  double keep = 1.0;  // KvPolicy::keep
  int32_t layer = 0;
  int32_t num_layers = 1;
  int32_t num_tokens = 0;  // of the page, without its sinks
  // As what they are encoded: what the bytes of a class depend on.
  const Codec* codec = nullptr;  // of class 0
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
};

struct KeptTokens {
  int32_t num_kept = 0;  // per kv head, in all classes together
  // Which add up to num_kept. A policy without further classes leaves them at zero.
  ClassSizes class_sizes{};
  // Into the page's tokens: class after class, [num_kv_heads, class size] of each, ascending in
  // each row. [num_kv_heads * num_kept]
  std::vector<int32_t> indices;
  std::vector<float> weights;  // like indices if the policy has weights, else empty
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
  // The codecs of classes 1 and on, the most precise first; such as need no tables, fewer than
  // kMaxTokenClasses. Empty: tokens are kept or dropped.
  virtual std::span<const Codec* const> further_codecs() const { return {}; }
  // True if the numbers decide: without further classes, Choose may keep fewer tokens than MostKept
  // says; with some, it keeps as many, but their division among the classes is known only then.
  virtual bool size_depends_on_data() const { return false; }

  // The number of tokens that stay, or the most that may. ceil(keep * num_tokens), at least one,
  // unless a policy says otherwise.
  virtual int32_t MostKept(const TokenBudget& budget) const;
  // How they are divided, unless that depends on the numbers: all in class 0, if a policy does not
  // say otherwise.
  virtual ClassSizes SizesOf(const TokenBudget& budget) const { return {MostKept(budget)}; }
  // What the classes may take together, runs and indices: what SizesOf takes, unless a policy says
  // otherwise.
  virtual uint64_t MostBytes(const TokenBudget& budget) const;
  // Not called where all tokens stay anyway. `kept` may hold an earlier result.
  virtual void Choose(const PageTokens& page,
                      const TokenBudget& budget,
                      KeptTokens& kept) const = 0;
};

// The codec of a class.
const Codec& CodecOfClass(const TokenPolicy& policy, const TokenBudget& budget, size_t token_class);
// Bytes of the encoded runs of classes of these sizes and of their indices and weights, which a
// class that holds all of the page's tokens has not.
uint64_t ClassBytes(const TokenPolicy& policy, const TokenBudget& budget, const ClassSizes& sizes);

// ceil(keep * count), at least one of any, at most all; none if `keep` is 0.
int64_t CeilShare(double keep, int64_t count);

inline constexpr std::string_view kClusterKv = "clusterkv";
// Whether the context keeps all tokens and the requests on it read the share `keep` of its sealed
// pages.
bool SelectsPages(const KvPolicy& policy);

// The policy that KvPolicy::tokens names, or null for "all" and "clusterkv", which prune nothing.
// Errors: kInvalidArgument (no such name; the names there are; a `keep` out of its range).
Result<const TokenPolicy*> FindTokenPolicy(const KvPolicy& policy);
std::span<const TokenPolicy* const> AllTokenPolicies();

}  // namespace varve
