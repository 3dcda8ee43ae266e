#include "kernels/codec/nearest_levels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/codec/lloyd_max.h"
#include "kernels/cpu/simd_targets.h"
#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// `kind`: 0 normal, 1 evenly spaced, 2 some equal, 3 neighbours among the floats, 4 of all sizes.
std::vector<float> Levels(size_t bits, int kind, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> levels;
  for (size_t i = 0; i < size_t{1} << bits; ++i) {
    const float x = rng.NextNormal();
    switch (kind) {
      case 1:
        levels.push_back(static_cast<float>(i) - 3.5F);
        break;
      case 2:
        levels.push_back(std::rint(2.0F * x));
        break;
      case 3:
        levels.push_back(i == 0 ? 1.0F - 0x1p-23F : std::nextafter(levels.back(), kInfinity));
        break;
      case 4:
        levels.push_back(x * std::exp(20.0F * rng.NextNormal()));
        break;
      default:
        levels.push_back(x);
    }
  }
  std::sort(levels.begin(), levels.end());
  return levels;
}

// Where it matters: at the levels, halfway between them, and beside both.
std::vector<float> Arguments(const std::vector<float>& levels, uint64_t seed) {
  std::vector<float> x = {
      0.0F,
      -0.0F,
      1e-45F,
      3e38F,
      -3e38F,
      kInfinity,
      -kInfinity,
      std::nanf(""),
  };
  const auto add_around = [&x](float middle) {
    x.push_back(middle);
    float below = middle;
    float above = middle;
    for (int i = 0; i < 3; ++i) {
      x.push_back(below = std::nextafter(below, -kInfinity));
      x.push_back(above = std::nextafter(above, kInfinity));
    }
  };
  for (size_t i = 0; i < levels.size(); ++i) {
    add_around(levels[i]);
    add_around(levels[i] / 2.0F + levels[std::min(i + 1, levels.size() - 1)] / 2.0F);
  }
  Rng rng(seed);
  for (int i = 0; i < 300; ++i) {
    x.push_back(2.0F * rng.NextNormal());
  }
  x.resize(x.size() / 8 * 8);
  return x;
}

TEST(NearestLevels, AreThoseOfTheScalarOnEveryTarget) {
  for (size_t bits = 1; bits <= kMaxLevelBits; ++bits) {
    for (int kind = 0; kind <= 4; ++kind) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const std::vector<float> levels = Levels(bits, kind, seed);
        const std::vector<float> x = Arguments(levels, seed + 100);
        const LevelSearch search = MakeLevelSearch(levels);
        for (const SimdTarget& target : SimdTargets()) {
          ForceSimdTarget(target);
          std::vector<uint8_t> codes(x.size());
          NearestLevels(search, x.data(), x.size(), codes.data());
          for (size_t i = 0; i < x.size(); ++i) {
            ASSERT_EQ(codes[i], NearestLevel(levels, x[i]))
                << target.name << " bits " << bits << " kind " << kind << " seed " << seed
                << " value " << x[i];
          }
        }
      }
    }
  }
  UseBestSimdTarget();
}

}  // namespace
}  // namespace varve
