// The tables of the klt codecs (klt_block.h), made from a sample of keys, values and queries.
#pragma once

#include "kernels/codec/codec.h"
#include "kernels/codec/klt_block.h"

namespace varve {

CodecTables CalibrateKlt(const CalibrationSample& sample, KltRate rate);

}  // namespace varve
