// The queries that an unsealed page meets before it is sealed, kept for the token policies that
// judge tokens by the attention they get.
//
// A page waits in the recent window until its sequence is recent_window_tokens longer than the page
// reaches: the queries at its own positions and at those behind it up to there are what it can be
// judged by, however the steps were cut. The last ones of them are kept, in bf16, as many as the
// policy asks for. Queries from before a restart are lost: the page is judged by those that follow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/thread_team.h"
#include "kvstore/kv_geometry.h"

namespace varve {

class ObservedQueries {
 public:
  ObservedQueries() = default;
  // Room for the queries at positions [first_position, end_position), `row_floats` numbers each.
  ObservedQueries(int64_t first_position, int64_t end_position, size_t row_floats);

  static uint64_t Bytes(int64_t num_queries, size_t row_floats) {
    return static_cast<uint64_t>(num_queries) * row_floats * sizeof(uint16_t);
  }

  // Takes what is wanted of the queries at first_position.., which come in order of position. q:
  // [num_tokens, row_floats], `token_stride` floats apart.
  void Observe(int64_t first_position, int32_t num_tokens, const float* q, size_t token_stride);

  // The observed positions: [first_seen, end_seen).
  int64_t first_seen() const { return first_seen_; }
  int64_t end_seen() const { return end_seen_; }
  // The query at an observed position, bf16 [row_floats].
  const uint16_t* Row(int64_t position) const {
    return rows_.data() + static_cast<size_t>(position - first_position_) * row_floats_;
  }

 private:
  int64_t first_position_ = 0;
  int64_t end_position_ = 0;
  int64_t first_seen_ = 0;
  int64_t end_seen_ = 0;
  size_t row_floats_ = 0;
  std::vector<uint16_t> rows_;  // bf16 [end_position - first_position, row_floats]
};

// The keys of a page, as the observed queries see them.
struct ObservedKeys {
  int64_t first_position = 0;
  int32_t num_tokens = 0;
  int64_t window = 0;        // of the layer; 0: global
  const float* k = nullptr;  // [num_tokens, num_kv_heads, head_dim]
};

// norms[h]: the norm that `share` of the observed queries of q head h do not exceed; 0 if there are
// none. norms: [num_qo_heads]
void QueryNorms(const ObservedQueries& queries,
                const KvGeometry& geometry,
                double share,
                std::span<float> norms);

// Computes attention mass. Holds scratch memory that grows to the largest page.
class MassMeter {
 public:
  explicit MassMeter(const KvGeometry& geometry) : geometry_(geometry) {}

  uint64_t ScratchBytes(int32_t num_tokens) const;
  void Reserve(int32_t num_tokens);

  // mass[h, t] = sum over the observed queries of the softmax weight of token t in q head h, where
  // the softmax runs over the tokens of this page that the query sees. Local to the page on
  // purpose: the mass on other pages is known only to the workers that hold them, and what stays
  // must not depend on how many there are. mass: [num_qo_heads, num_tokens].
  void Measure(const ObservedQueries& queries, const ObservedKeys& keys, std::span<float> mass);

 private:
  void AddHead(const ObservedQueries& queries,
               const ObservedKeys& keys,
               int32_t head,
               std::span<float> mass);

  KvGeometry geometry_;
  ThreadTeam team_{1};
  std::vector<float> q_;       // [kBlockQueries, head_dim]
  std::vector<float> scores_;  // [kBlockQueries, num_tokens]
};

}  // namespace varve
