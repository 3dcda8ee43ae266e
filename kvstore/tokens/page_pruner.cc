#include "kvstore/tokens/page_pruner.h"

#include <algorithm>
#include <numeric>

#include "proto/base/check.h"

namespace varve {
namespace {

// One observed query in ten may be longer than a policy is told.
constexpr double kQueryNormShare = 0.9;

}  // namespace

uint64_t PagePruner::WorkspaceBytes(int32_t page_tokens) const {
  // Mass, indices and weights of every head; the scores and the order of tokens in a policy, and
  // the bounds that it chooses from; one head's rows before they move.
  const auto rows = static_cast<uint64_t>(geometry_.num_qo_heads + 6 * geometry_.num_kv_heads + 2 +
                                          geometry_.head_dim);
  return meter_.ScratchBytes(page_tokens) +
         rows * static_cast<uint64_t>(page_tokens) * sizeof(float);
}

void PagePruner::Reserve(int32_t page_tokens) {
  const auto tokens = static_cast<size_t>(page_tokens);
  meter_.Reserve(page_tokens);
  mass_.reserve(static_cast<size_t>(geometry_.num_qo_heads) * tokens);
  kept_.indices.reserve(static_cast<size_t>(geometry_.num_kv_heads) * tokens);
  kept_.weights.reserve(static_cast<size_t>(geometry_.num_kv_heads) * tokens);
  rows_.reserve(static_cast<size_t>(geometry_.head_dim) * tokens);
}

const KeptTokens& PagePruner::Prune(const TokenPolicy& policy,
                                    const TokenBudget& budget,
                                    const ObservedQueries& queries,
                                    const PrunedPage& page) {
  const int32_t num_tokens = page.num_tokens - page.num_sinks;
  const int32_t most = policy.MostKept(budget);
  VARVE_CHECK(num_tokens == budget.num_tokens && most >= 0 && most <= num_tokens);
  const size_t sink_floats = static_cast<size_t>(page.num_sinks) * RowFloats();
  kept_.num_kept = 0;
  kept_.class_sizes = {};
  kept_.indices.clear();
  kept_.weights.clear();
  if (most == 0) {
    return kept_;
  }
  MeasureMass(queries, page);
  query_norms_.resize(static_cast<size_t>(geometry_.num_qo_heads));
  QueryNorms(queries, geometry_, kQueryNormShare, query_norms_);
  policy.Choose({.num_tokens = num_tokens,
                 .num_kv_heads = geometry_.num_kv_heads,
                 .num_qo_heads = geometry_.num_qo_heads,
                 .head_dim = geometry_.head_dim,
                 .sm_scale = geometry_.sm_scale,
                 .k = page.k + sink_floats,
                 .v = page.v + sink_floats,
                 .mass = mass_,
                 .num_queries = static_cast<int32_t>(queries.end_seen() - queries.first_seen()),
                 .query_norms = query_norms_},
                budget,
                kept_);
  if (policy.further_codecs().empty()) {
    kept_.class_sizes = {kept_.num_kept};
  }
  const size_t entries =
      static_cast<size_t>(geometry_.num_kv_heads) * static_cast<size_t>(kept_.num_kept);
  VARVE_CHECK(kept_.num_kept >= 1 && kept_.num_kept <= most && kept_.indices.size() == entries);
  VARVE_CHECK(std::accumulate(kept_.class_sizes.begin(), kept_.class_sizes.end(), 0) ==
              kept_.num_kept);
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

void PagePruner::Gather(const PrunedPage& page) {
  for (float* rows : {page.k, page.v}) {
    for (size_t head = 0; head < static_cast<size_t>(geometry_.num_kv_heads); ++head) {
      GatherHead(head,
                 rows + static_cast<size_t>(page.num_sinks) * RowFloats() +
                     head * static_cast<size_t>(geometry_.head_dim));
    }
  }
}

// Classes take turns in the page: a row may have to go behind one that has not moved yet.
void PagePruner::GatherHead(size_t head, float* candidates) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto num_heads = static_cast<size_t>(geometry_.num_kv_heads);
  const int32_t last = *std::max_element(kept_.indices.begin(), kept_.indices.end());
  rows_.resize((static_cast<size_t>(last) + 1) * head_dim);
  for (size_t token = 0; token <= static_cast<size_t>(last); ++token) {
    std::copy_n(candidates + token * RowFloats(), head_dim, rows_.data() + token * head_dim);
  }
  size_t placed = 0;  // of this head, in the classes before
  for (const int32_t size : kept_.class_sizes) {
    const auto count = static_cast<size_t>(size);
    const int32_t* indices = kept_.indices.data() + num_heads * placed + head * count;
    for (size_t i = 0; i < count; ++i) {
      std::copy_n(rows_.data() + static_cast<size_t>(indices[i]) * head_dim,
                  head_dim,
                  candidates + (placed + i) * RowFloats());
    }
    placed += count;
  }
}

}  // namespace varve
