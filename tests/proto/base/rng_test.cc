#include "proto/base/rng.h"

#include <cmath>

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(Rng, TheSameSeedGivesTheSameNumbersOnEveryMachine) {
  Rng a(42);
  Rng b(42);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(a.Next(), b.Next());
  }
  EXPECT_NE(Rng(42).Next(), Rng(43).Next());
  EXPECT_NE(Rng(42, 0).Next(), Rng(42, 1).Next());
}

TEST(Rng, UniformsAndNormalsHaveTheirMoments) {
  Rng rng(7);
  double sum = 0;
  double normal_sum = 0;
  double normal_square = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = rng.NextDouble();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    const double n = rng.NextNormal();
    normal_sum += n;
    normal_square += n * n;
    ASSERT_LT(rng.Below(10), 10U);
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(normal_sum / kDraws, 0.0, 0.02);
  EXPECT_NEAR(normal_square / kDraws, 1.0, 0.02);
}

}  // namespace
}  // namespace varve
