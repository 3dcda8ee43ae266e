// The attention of a query over a set of tokens is a state (o, lse). States over disjoint sets
// merge, so splits inside a kernel, pages, tiers, workers and nodes are all the same operation.
//
//   lse = natural log of the sum of exponentials of the scaled scores;  o = softmax-weighted mean
//   of the values no token attended:  lse = -infinity, o = 0
//
// The merge is commutative and associative up to rounding (FlashDecoding, Dao et al. 2023; the
// rescaling is Milakov and Gimelshein, 1805.02867). Varve merges in page order, then in worker
// order, so that logits are reproducible.
#pragma once

#include <cmath>

#include "kernels/hd.h"

namespace varve {

// The factors of one merge: o = weight_a * a.o + weight_b * b.o, lse as given.
struct MergeWeights {
  float weight_a;
  float weight_b;
  float lse;
};

VARVE_HD inline MergeWeights WeighMerge(float lse_a, float lse_b) {
  const float highest = lse_a > lse_b ? lse_a : lse_b;
  if (highest == -INFINITY) {
    return {0.0F, 0.0F, -INFINITY};
  }
  const float a = expf(lse_a - highest);
  const float b = expf(lse_b - highest);
  const float sum = a + b;
  return {a / sum, b / sum, highest + logf(sum)};
}

// Merges the state (o_b, lse_b) into (o_a, lse_a). o_a, o_b: [head_dim].
VARVE_HD inline void MergeState(float* o_a,
                                float* lse_a,
                                const float* o_b,
                                float lse_b,
                                int head_dim) {
  const MergeWeights w = WeighMerge(*lse_a, lse_b);
  for (int i = 0; i < head_dim; ++i) {
    o_a[i] = w.weight_a * o_a[i] + w.weight_b * o_b[i];
  }
  *lse_a = w.lse;
}

}  // namespace varve
