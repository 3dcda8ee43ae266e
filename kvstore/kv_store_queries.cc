// What token policies want to know of the queries that unsealed pages meet.
#include <algorithm>

#include "kvstore/kv_store_impl.h"

namespace varve {

bool KvStoreImpl::ObservesQueries(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  return found != sequences_.end() && NumObservedQueries(found->second) > 0;
}

int32_t KvStoreImpl::NumObservedQueries(const SequenceState& state) const {
  const KvPolicy& policy = state.policy.policy;
  return state.policy.tokens == nullptr ? 0
                                        : state.policy.tokens->NumObservedQueries(
                                              policy.page_tokens, policy.recent_window_tokens);
}

ObservedQueries KvStoreImpl::QueriesOf(const SequenceState& state, int64_t page) const {
  const int32_t count = NumObservedQueries(state);
  if (count == 0) {
    return {};
  }
  const int64_t end = state.grid.EndPosition(page) + state.policy.policy.recent_window_tokens;
  return ObservedQueries(std::max(end - count, state.grid.FirstPosition(page)), end, QueryFloats());
}

void KvStoreImpl::Observe(SequenceId sequence,
                          int32_t layer,
                          int64_t first_position,
                          int32_t num_tokens,
                          const float* q,
                          size_t token_stride) {
  SequenceState& state = OpenedSequence(sequence);
  VARVE_CHECK(first_position >= state.length &&
              first_position + num_tokens <= state.length + state.step_tokens);
  for (auto& [page, run] : state.runs[static_cast<size_t>(layer)]) {
    run.queries.Observe(first_position, num_tokens, q, token_stride);
  }
}

}  // namespace varve
