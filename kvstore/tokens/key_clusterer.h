// Divides the keys of a page into clusters of one direction: what ClusterKV (2412.03213) ranks in
// place of the keys themselves.
//
// Spherical k-means by kv head: a key belongs to the cluster whose centre has the largest cosine
// with it, the first of equals. The first cluster begins with the page's first key, each other one
// with the key that lies farthest from the clusters before it, so that a key unlike all others
// (what a question may be after) has a cluster of its own and is not lost in a mean. There are at
// most kRounds rounds: the same keys always give the same centroids.
//
// A centroid is the mean of the keys as they are, not of their directions, so that its product with
// a query is the mean of the scores; one of a cluster that lost all its keys is the key that it
// began with.
//
// Holds a workspace, sized once for the largest page. Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/kv_geometry.h"

namespace varve {

class KeyClusterer {
 public:
  explicit KeyClusterer(const KvGeometry& geometry)
      : num_kv_heads_(static_cast<size_t>(geometry.num_kv_heads)),
        head_dim_(static_cast<size_t>(geometry.head_dim)) {}

  uint64_t WorkspaceBytes(int32_t page_tokens) const;
  void Reserve(int32_t page_tokens);

  // k: [num_tokens, num_kv_heads, head_dim], after RoPE. centroids: bf16 [num_clusters,
  // num_kv_heads, head_dim], out. REQUIRES: 1 <= num_clusters <= num_tokens.
  void Cluster(const float* k,
               int32_t num_tokens,
               int32_t num_clusters,
               std::span<uint16_t> centroids);

 private:
  static constexpr int kRounds = 8;

  void Normalise(const float* head_keys, size_t num_tokens);
  void PlaceCentres(size_t num_clusters);
  // Of all keys with one centre.
  void MeasureCosines(size_t cluster);
  // Whether a key changed its cluster.
  bool Assign(size_t num_clusters);
  void MoveCentres(size_t num_clusters);
  // The mean of a cluster's keys.
  void Mean(const float* head_keys, size_t cluster, std::span<float> mean) const;

  size_t num_kv_heads_;
  size_t head_dim_;
  // Of one head, key by key in the innermost dimension: what is computed for all keys at once.
  std::vector<float> units_;     // [head_dim, num_tokens], of length 1
  std::vector<float> centres_;   // [num_clusters, head_dim], of length 1
  std::vector<float> cosines_;   // [num_tokens], with one centre
  std::vector<float> nearest_;   // [num_tokens], with the nearest centre
  std::vector<size_t> cluster_;  // [num_tokens]
  std::vector<size_t> next_;     // [num_tokens], the next round's
  std::vector<size_t> starts_;   // [num_clusters], the keys that clusters begin with
};

}  // namespace varve
