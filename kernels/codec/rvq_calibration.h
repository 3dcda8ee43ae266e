// The tables of the rvq codecs (rvq_block.h), made from a sample of keys and values: stage by
// stage, on what the stages before left over. The codewords are the means that k-means finds from
// vectors of the sample chosen at random, then follow the rest of the sample by moving averages
// (decay 0.99; Laplace-smoothed counts; from counts of one), as in the paper.
//
// The paper learns from about a hundred million vectors in hundreds of steps. Here a layer costs
// the same time whatever the sample's size: 32,768 vectors of it are looked at, 16,384 of them in 6
// rounds of k-means for 256 codewords or in 2 for 2,048, all of them once more in 16 batches of the
// averages. That is 21 * 10^9 multiplications for rvq8, half as many for rvq4 and five times as
// many for rvq8-2k.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/codec/codec.h"
#include "kernels/codec/rvq_block.h"

namespace varve {

// Deterministic: equal samples give equal tables on every machine.
CodecTables CalibrateRvq(const CalibrationSample& sample, const RvqFormat& format);

// The scale of a row, [head_dim], as half.
uint16_t RvqScale(const float* row, size_t head_dim);
// The row divided by a scale that is not zero, in groups: [groups, 32].
void SplitRvqRow(const float* row, size_t head_dim, bool is_key, float scale, float* groups);

}  // namespace varve
