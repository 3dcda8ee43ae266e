// What part "planted" attends over (planted_eval.h): keys and values of ordinary tokens, needles
// and decoys, made page by page from the seed, so that nothing has to be kept; and queries that
// look for the needles.
//
// Threads: everything is const.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/codec/codec.h"
#include "proto/base/rng.h"

namespace varve::cli {

class Haystack {
 public:
  static constexpr size_t kHeadDim = 128;
  static constexpr size_t kPageTokens = 128;
  static constexpr size_t kPageFloats = kHeadDim * kPageTokens;  // of keys; of values as many
  static constexpr size_t kQueries = 16;                         // of each length

  // `lengths`: in tokens, ascending, multiples of a page.
  Haystack(std::vector<int64_t> lengths, double outliers, uint64_t seed);

  const std::vector<int64_t>& lengths() const { return lengths_; }
  size_t num_queries() const { return lengths_.size() * kQueries; }
  size_t num_pages() const { return static_cast<size_t>(lengths_.back()) / kPageTokens; }
  // Pages of the length that a query belongs to, and the one of them that holds its needle.
  size_t pages_of(size_t query) const {
    return static_cast<size_t>(lengths_[query / kQueries]) / kPageTokens;
  }
  size_t needle_page(size_t query) const { return needle_pages_[query]; }

  // [num_queries, head_dim]
  std::vector<float> Queries() const;
  // Keys, then values, each [page_tokens, head_dim]: a run of the exact codec.
  void MakePage(size_t page, float* run) const;

  // Ordinary tokens and queries of the same statistics, none of which is in the haystack: what
  // codecs are calibrated with.
  CalibrationSample Sample() const;

 private:
  // A token whose score for one query is given.
  struct Plant {
    size_t token = 0;  // in its page
    size_t query = 0;  // over all lengths
    double score = 0;
  };

  void PlantFor(size_t query, Rng* rng);
  // Gives unit normal values the deviations and the means of keys and values.
  void Shape(float* run) const;

  const std::vector<int64_t> lengths_;
  const uint64_t seed_;
  std::vector<float> scale_;                               // [head_dim]
  std::vector<float> mean_;                                // [head_dim]; of keys
  std::vector<float> directions_;                          // [num_queries, head_dim], unit
  std::unordered_map<size_t, std::vector<Plant>> plants_;  // by page
  std::vector<size_t> needle_pages_;                       // [num_queries]
};

}  // namespace varve::cli
