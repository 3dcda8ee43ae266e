// The tables of lorc (lorc_block.h), made from a sample of keys, values and queries.
#pragma once

#include "kernels/codec/codec.h"

namespace varve {

CodecTables CalibrateLorc(const CalibrationSample& sample);

}  // namespace varve
