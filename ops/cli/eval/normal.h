// Normal deviates whose tails are right: what quantisers are judged by. (Rng::NextNormal is
// quicker, and cuts tails.)
#pragma once

#include <span>

#include "proto/base/rng.h"

namespace varve::cli {

// Independent, mean 0, variance 1.
void FillNormal(Rng* rng, std::span<float> out);

}  // namespace varve::cli
