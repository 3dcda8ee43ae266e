// The tables of the klt codecs (klt_block.h), made from a sample of keys, values and queries.
#pragma once

#include <cstddef>

#include "kernels/codec/codec.h"
#include "kernels/codec/klt_block.h"

namespace varve {

CodecTables CalibrateKlt(const CalibrationSample& sample, KltRate rate);

// y of one key or value, [KltDims(head_dim)].
void TransformKltKey(const KltTables<const float>& tables,
                     size_t head_dim,
                     const float* k,
                     float* y);
void TransformKltValue(const KltTables<const float>& tables,
                       size_t head_dim,
                       const float* v,
                       float* y);

// Root mean square of the dimensions that have bits.
float KltNorm(const KltSide<const float>& side, size_t dims, const float* y);

}  // namespace varve
