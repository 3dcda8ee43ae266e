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

// Why a row is coded as it is, on SmolLM2-135M (W = 192, 8,192 tokens of calibration from other
// books, 768 or 1,024 tokens of Gibbon; tokens older than 128 coded). Error of attention's output,
// squared and relative, geometric mean over ten layers, in thousandths:
//   keys, 0.67 bits per value    1.45; without scales 2.91; each head by itself 3.77
//   values, 1 bit per value      3.1; without scales 4.1; scales that keep the norm 3.1
//     weighed by the output projection 3.0; half of the components, rotated, with 2 bits each 3.8;
//     at least 1 bit for each component 7.1; a Hadamard rotation, 1 bit each 6.8
//   values, 2 bits per value     0.91; a Hadamard rotation, 2 bits each 1.63
// KL against exact KV, errors of all layers together: keys alone at 1 bit 0.008 nats; values alone
// at 1 bit 0.098, and 0.102 with the Hadamard rotation: components without bits are an error that
// does not average out over tokens, which takes back most of what the values gain.

// Time: of the order of tokens * W^2 + 20 W^3 operations, W = num_kv_heads * head_dim.
CodecTables CalibratePca(const CalibrationSample& sample, PcaRate rate);

}  // namespace varve
