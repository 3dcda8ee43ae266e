// The tables of the nuq codecs (nuq_block.h), made from a sample of keys and values.
#pragma once

#include <cstddef>

#include "kernels/codec/codec.h"

namespace varve {

CodecTables CalibrateNuq(const CalibrationSample& sample, size_t bits, bool sparse);

}  // namespace varve
