// One transformer layer in a straight line: norm, q k v, attention, output projection, norm, FFN.
// Next: worker/attention.h
#pragma once

#include <cstdint>

#include "worker/rank.h"
#include "worker/task.h"

namespace varve {

// Reads and updates rank.skip, the skip connection of the own tokens.
Task RunLayer(Rank& rank, int32_t layer);

}  // namespace varve
