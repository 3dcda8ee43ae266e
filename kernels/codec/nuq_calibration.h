// The tables of the nuq codecs (nuq_block.h), made from a sample of keys and values.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/codec/codec.h"

namespace varve {

CodecTables CalibrateNuq(const CalibrationSample& sample, size_t bits, bool sparse);

// A row of values as it is coded: which are outliers, and the range of the others.
struct NuqRow {
  std::vector<size_t> outliers;  // dims, ascending
  float scale = 0.0F;            // 0: all others are equal
  float offset = 0.0F;
};

// v: [head_dim]. Scale and offset are not yet rounded to halves.
NuqRow SplitNuqRow(std::span<const float> v, size_t num_outliers);

}  // namespace varve
