// What an error in each channel of a key counts, where keys are taken before RoPE.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/codec/codec.h"

namespace varve {

// The mean of q^2 of each channel, made equal within each rotary pair (rotations average over
// distances), and nowhere less than 1e-4 of their mean: queries unlike the sample's will come.
std::vector<double> QueryWeights(const CalibrationSample& sample, size_t kv_head);

}  // namespace varve
