#include "kvstore/tokens/page_pruner.h"

#include <algorithm>

#include "proto/base/check.h"

namespace varve {

uint64_t PagePruner::WorkspaceBytes(int32_t page_tokens) const {
  // Mass, indices and weights of every head; the scores and the order of tokens in a policy.
  const auto rows = static_cast<uint64_t>(geometry_.num_qo_heads + 3 * geometry_.num_kv_heads + 2);
  return meter_.ScratchBytes(page_tokens) +
         rows * static_cast<uint64_t>(page_tokens) * sizeof(float);
}

void PagePruner::Reserve(int32_t page_tokens) {
  const auto tokens = static_cast<size_t>(page_tokens);
  meter_.Reserve(page_tokens);
  mass_.reserve(static_cast<size_t>(geometry_.num_qo_heads) * tokens);
  kept_.indices.reserve(static_cast<size_t>(geometry_.num_kv_heads) * tokens);
  kept_.weights.reserve(static_cast<size_t>(geometry_.num_kv_heads) * tokens);
}

const KeptTokens& PagePruner::Prune(const TokenPolicy& policy,
                                    double keep,
                                    const ObservedQueries& queries,
                                    const PrunedPage& page) {
  const int32_t num_tokens = page.num_tokens - page.num_sinks;
  const TokenBudget budget = BudgetOf(keep, page.layer, num_tokens);
  const int32_t most = policy.MostKept(budget);
  VARVE_CHECK(most >= 0 && most <= num_tokens);
  const size_t sink_floats = static_cast<size_t>(page.num_sinks) * RowFloats();
  kept_.num_kept = 0;
  kept_.indices.clear();
  kept_.weights.clear();
  if (most == 0) {
    return kept_;
  }
  MeasureMass(queries, page);
  policy.Choose({.num_tokens = num_tokens,
                 .num_kv_heads = geometry_.num_kv_heads,
                 .num_qo_heads = geometry_.num_qo_heads,
                 .head_dim = geometry_.head_dim,
                 .sm_scale = geometry_.sm_scale,
                 .k = page.k + sink_floats,
                 .v = page.v + sink_floats,
                 .mass = mass_},
                budget,
                kept_);
  const size_t entries =
      static_cast<size_t>(geometry_.num_kv_heads) * static_cast<size_t>(kept_.num_kept);
  VARVE_CHECK(kept_.num_kept >= 1 && kept_.num_kept <= most && kept_.indices.size() == entries);
  VARVE_CHECK(kept_.weights.size() == (policy.has_weights() ? entries : 0));
  Gather(page);
  return kept_;
}

// Sinks take their part of the softmax and are then left out: they are not to be chosen from.
void PagePruner::MeasureMass(const ObservedQueries& queries, const PrunedPage& page) {
  const auto heads = static_cast<size_t>(geometry_.num_qo_heads);
  const auto all = static_cast<size_t>(page.num_tokens);
  const auto sinks = static_cast<size_t>(page.num_sinks);
  mass_.resize(heads * all);
  meter_.Measure(queries,
                 {.first_position = page.first_position,
                  .num_tokens = page.num_tokens,
                  .window = geometry_.layer_windows[static_cast<size_t>(page.layer)],
                  .k = page.k},
                 mass_);
  for (size_t head = 0; head < heads; ++head) {
    const float* row = mass_.data() + head * all;
    std::copy(row + sinks, row + all, mass_.data() + head * (all - sinks));
  }
  mass_.resize(heads * (all - sinks));
}

// In place: an index is never below its rank, so no row is overwritten before it is read.
void PagePruner::Gather(const PrunedPage& page) const {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto num_kept = static_cast<size_t>(kept_.num_kept);
  for (float* rows : {page.k, page.v}) {
    float* candidates = rows + static_cast<size_t>(page.num_sinks) * RowFloats();
    for (size_t head = 0; head < static_cast<size_t>(geometry_.num_kv_heads); ++head) {
      for (size_t i = 0; i < num_kept; ++i) {
        const auto from = static_cast<size_t>(kept_.indices[head * num_kept + i]);
        if (from != i) {
          std::copy_n(candidates + from * RowFloats() + head * head_dim,
                      head_dim,
                      candidates + i * RowFloats() + head * head_dim);
        }
      }
    }
  }
}

}  // namespace varve
