// What an error of a key weighs: how much it moves the scores of queries like the sample's.
#pragma once

#include <cstdint>

#include "kernels/codec/codec.h"

#include <Eigen/Core>

namespace varve {

// S of one kv head (klt_block.h), [head_dim, head_dim]: the square root of the queries' second
// moment, equal within each rotary pair. Symmetric; no direction is without weight.
Eigen::MatrixXd QueryMetric(const CalibrationSample& sample, int32_t kv_head);

}  // namespace varve
