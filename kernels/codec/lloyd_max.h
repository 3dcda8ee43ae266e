// Levels of a scalar quantiser: fitted to a sample, and found again.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace varve {

// The `count` levels with the least weighted squared error (S. Lloyd, "Least squares quantization
// in PCM", 1982; in one dimension k-means), ascending. `weights` is as long as `values`, or empty:
// ones. Starts from quantiles; deterministic. Without values: evenly spaced in [-1, 1].
std::vector<float> FitLevels(std::span<const float> values,
                             std::span<const float> weights,
                             size_t count);

// The number of the level that is nearest to x; of two equally near, the lower. `levels`:
// ascending.
size_t NearestLevel(std::span<const float> levels, float x);

}  // namespace varve
