#include "ops/cli/eval/normal.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace varve::cli {
namespace {

TEST(Normal, HasTheMomentsAndTheTailsOfAGaussian) {
  std::vector<float> x(1'000'001);  // odd: the last pair is cut
  Rng rng(3);
  FillNormal(&rng, x);
  double mean = 0;
  double square = 0;
  double fourth = 0;
  for (const float value : x) {
    mean += value;
    square += std::pow(value, 2);
    fourth += std::pow(value, 4);
  }
  const auto count = static_cast<double>(x.size());
  EXPECT_NEAR(mean / count, 0, 5 / std::sqrt(count));
  EXPECT_NEAR(square / count, 1, 5 * std::sqrt(2 / count));
  EXPECT_NEAR(fourth / count, 3, 5 * std::sqrt(96 / count));
  const auto beyond = [&x](float limit) {
    return static_cast<double>(
        std::count_if(x.begin(), x.end(), [limit](float v) { return std::fabs(v) > limit; }));
  };
  EXPECT_NEAR(beyond(3) / count, 0.0027, 0.0003);
  EXPECT_NEAR(beyond(4) / count, 6.3e-5, 4e-5);
}

}  // namespace
}  // namespace varve::cli
