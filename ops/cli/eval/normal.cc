#include "ops/cli/eval/normal.h"

#include <cmath>
#include <numbers>

namespace varve::cli {

// Pairs by the transform of Box and Muller.
void FillNormal(Rng* rng, std::span<float> out) {
  for (size_t i = 0; i < out.size(); i += 2) {
    const double radius = std::sqrt(-2 * std::log(1 - rng->NextDouble()));
    const double angle = 2 * std::numbers::pi * rng->NextDouble();
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < out.size()) {
      out[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
}

}  // namespace varve::cli
