// The tables of skvq4 and skvq2 (skvq_block.h), made from a sample of keys, values and queries.
#pragma once

#include <cstddef>

#include "kernels/codec/codec.h"

namespace varve {

CodecTables CalibrateSkvq(const CalibrationSample& sample, size_t bits);

}  // namespace varve
