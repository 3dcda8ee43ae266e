#include "worker/rope_table.h"

#include <cmath>

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(RopeTable, HoldsCosAndSinOfPositionTimesFrequency) {
  const RopeSpec spec{.inv_freq = {1.0, 0.25}, .attention_factor = 2.0};
  const int64_t positions[] = {0, 3};
  float table[8];
  FillRopeTable(spec, positions, table);
  const float expected[] = {2.0F,
                            0.0F,
                            2.0F,
                            0.0F,
                            static_cast<float>(2 * std::cos(3.0)),
                            static_cast<float>(2 * std::sin(3.0)),
                            static_cast<float>(2 * std::cos(0.75)),
                            static_cast<float>(2 * std::sin(0.75))};
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_FLOAT_EQ(table[i], expected[i]) << i;
  }
}

// A float angle at ten million is off by up to half a radian: the rotation between neighbours would
// be noise.
TEST(RopeTable, KeepsTheAngleBetweenNeighboursAtTenMillion) {
  const RopeSpec spec{.inv_freq = {0.7310585786300049}};
  const int64_t positions[] = {9'999'999, 10'000'000};
  float table[4];
  FillRopeTable(spec, positions, table);
  const double cos_between =
      static_cast<double>(table[0]) * table[2] + static_cast<double>(table[1]) * table[3];
  EXPECT_NEAR(cos_between, std::cos(0.7310585786300049), 1e-6);
}

}  // namespace
}  // namespace varve
