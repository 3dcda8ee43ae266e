// The tables of pca and pca10 (pca_block.h), made from a sample of keys, values and queries.
//
// What a distortion of keys is worth against one of values: noise of variance e^2 in the scores
// and noise dv in the values, both independent between tokens, change the output of a head by
// sum p_i e_i (v_i - o) and by sum p_i dv_i. So e^2, the mean over kv heads of the error of q.k
// squared (sm_scale included), compares with the share of the variance of values that is lost. It
// counts kPcaKeyWeight times as much: what tokens have in common in e_i cancels in the softmax.
#pragma once

#include "kernels/codec/codec.h"
#include "kernels/codec/pca_block.h"

namespace varve {

// Between the best of those tried on SmolLM2-135M at 1.0 bits per value: of 0.1, 0.3, 1 and 3 the
// first two cost 0.075 and 0.079 nats, the others far more of the output of attention. Between a
// quarter and a third of a row is then the keys'.
inline constexpr double kPcaKeyWeight = 0.2;

// Time: of the order of tokens * W^2 + 20 W^3 operations, W = num_kv_heads * head_dim.
CodecTables CalibratePca(const CalibrationSample& sample, PcaRate rate);

}  // namespace varve
