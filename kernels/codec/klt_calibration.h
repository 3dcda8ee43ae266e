// The tables of klt4, klt3 and klt2 (klt_block.h), made from a sample of keys and queries.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/codec.h"
#include "kernels/codec/klt_block.h"

namespace varve {

// `bits` per dimension, on average over the dimensions.
CodecTables CalibrateKlt(const CalibrationSample& sample, size_t bits);

// y of one key, [KltDims(head_dim)], and the norm of the dimensions that have bits.
float TransformKltKey(const KltTables& tables, size_t head_dim, const float* k, float* y);

}  // namespace varve
