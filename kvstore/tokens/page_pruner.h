// Prunes one page: asks the token policy, then gathers what stays, class by class, so that each can
// be encoded like any run. Holds a workspace, sized once for the largest page.
// Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/kv_geometry.h"
#include "kvstore/tokens/observed_queries.h"
#include "kvstore/tokens/token_policy.h"

namespace varve {

// A page on its way to be sealed.
struct PrunedPage {
  int32_t layer = 0;
  int64_t first_position = 0;
  int32_t num_tokens = 0;
  int32_t num_sinks = 0;  // the first tokens, which all stay
  float* k = nullptr;     // [num_tokens, num_kv_heads, head_dim]
  float* v = nullptr;     // [num_tokens, num_kv_heads, head_dim]
};

class PagePruner {
 public:
  explicit PagePruner(const KvGeometry& geometry) : geometry_(geometry), meter_(geometry) {}

  uint64_t WorkspaceBytes(int32_t page_tokens) const;
  void Reserve(int32_t page_tokens);

  // `num_tokens`: of the page, without its sinks.
  TokenBudget BudgetOf(const Codec& codec, double keep, int32_t layer, int32_t num_tokens) const {
    return {keep,
            layer,
            geometry_.num_layers(),
            num_tokens,
            &codec,
            geometry_.num_kv_heads,
            geometry_.head_dim};
  }
  // Chooses among the tokens behind the sinks and moves the rows of the kept ones, head by head, to
  // the front of them, class after class: with n tokens in the classes before, row
  // num_sinks + n + i of a head is then its i-th token of the class, which stood at position
  // first_position + num_sinks + (its index). What lies behind the kept rows is spoilt. The result
  // has its class sizes and is valid until the next call.
  const KeptTokens& Prune(const TokenPolicy& policy,
                          const TokenBudget& budget,
                          const ObservedQueries& queries,
                          const PrunedPage& page);

 private:
  void MeasureMass(const ObservedQueries& queries, const PrunedPage& page);
  void Gather(const PrunedPage& page);
  void GatherHead(size_t head, float* candidates);
  size_t RowFloats() const {
    return static_cast<size_t>(geometry_.num_kv_heads) * static_cast<size_t>(geometry_.head_dim);
  }

  KvGeometry geometry_;
  MassMeter meter_;
  std::vector<float> mass_;  // [num_qo_heads, num_tokens], sinks included while it is measured
  std::vector<float> query_norms_;  // [num_qo_heads]
  std::vector<float> rows_;         // [num_tokens, head_dim] of one head, before they move
  KeptTokens kept_;
};

}  // namespace varve
