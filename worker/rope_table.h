// cos and sin of the rotary angles of a step's positions. Angles are computed in double: at
// position 10^7 a float angle has lost its fraction of a turn. Next: worker/step.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "worker/rope_config.h"

namespace varve {

// cos_sin: [positions.size(), head_dim / 2, 2], cos then sin, each times the attention factor.
// REQUIRES: cos_sin.size() == positions.size() * spec.inv_freq.size() * 2.
void FillRopeTable(const RopeSpec& spec,
                   std::span<const int64_t> positions,
                   std::span<float> cos_sin);

}  // namespace varve
