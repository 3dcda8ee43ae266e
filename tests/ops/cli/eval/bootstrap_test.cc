#include "ops/cli/eval/bootstrap.h"

#include <cmath>

#include <gtest/gtest.h>

namespace varve::cli {
namespace {

TEST(Bootstrap, IntervalOfAShareIsTwoStandardErrorsWide) {
  std::vector<char> right(400, 0);
  std::fill_n(right.begin(), 300, 1);
  const Interval interval = BootstrapMean(right, 7);
  const double error = std::sqrt(0.75 * 0.25 / 400);
  EXPECT_NEAR(interval.low, 0.75 - 1.96 * error, 0.3 * error);
  EXPECT_NEAR(interval.high, 0.75 + 1.96 * error, 0.3 * error);
}

TEST(Bootstrap, NothingIsUncertainAboutEqualAnswers) {
  EXPECT_EQ(BootstrapMean(std::vector<char>(50, 1), 1).low, 1.0);
  EXPECT_EQ(BootstrapMean(std::vector<char>(50, 0), 1).high, 0.0);
}

TEST(Bootstrap, SameSeedSameInterval) {
  std::vector<char> right(101, 0);
  std::fill_n(right.begin(), 33, 1);
  EXPECT_EQ(BootstrapMean(right, 5).low, BootstrapMean(right, 5).low);
  EXPECT_EQ(BootstrapMean(right, 5).high, BootstrapMean(right, 5).high);
}

}  // namespace
}  // namespace varve::cli
