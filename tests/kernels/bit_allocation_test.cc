#include "kernels/codec/bit_allocation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

// Distortions of parts, [num_parts, num_widths].
struct Curves {
  size_t num_widths = 0;
  std::vector<double> distortion;

  size_t num_parts() const { return distortion.size() / num_widths; }
  double Of(const std::vector<size_t>& shares) const {
    double sum = 0.0;
    for (size_t part = 0; part < shares.size(); ++part) {
      sum += distortion[part * num_widths + shares[part]];
    }
    return sum;
  }
};

// Parts of random variances, over eight orders of magnitude. `smooth`: each unit of rate takes the
// distortion down to a quarter, as theory has it; else by random factors, as measurements do.
Curves RandomCurves(uint64_t seed, size_t num_parts, size_t num_widths, bool smooth) {
  Rng rng(seed);
  Curves curves{num_widths, {}};
  for (size_t part = 0; part < num_parts; ++part) {
    double distortion = std::exp(4.0 * rng.NextNormal());
    for (size_t width = 0; width < num_widths; ++width) {
      curves.distortion.push_back(distortion);
      distortion *= smooth ? 0.25 : rng.NextDouble();
    }
  }
  return curves;
}

// Each further unit to the part whose distortion it lowers most.
std::vector<size_t> Greedy(const Curves& curves, size_t total) {
  std::vector<size_t> shares(curves.num_parts(), 0);
  for (size_t spent = 0; spent < total; ++spent) {
    size_t best = shares.size();
    double most = 0.0;
    for (size_t part = 0; part < shares.size(); ++part) {
      const double* own = curves.distortion.data() + part * curves.num_widths + shares[part];
      if (shares[part] + 1 < curves.num_widths && own[0] - own[1] > most) {
        most = own[0] - own[1];
        best = part;
      }
    }
    if (best == shares.size()) {
      break;
    }
    ++shares[best];
  }
  return shares;
}

TEST(AllocateBits, IsNeverWorseThanGreedyOnRandomVariances) {
  size_t better = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const size_t num_parts = 1 + seed % 40;
    const Curves curves = RandomCurves(seed, num_parts, 2 + seed % 7, seed % 3 == 0);
    const size_t total = seed % (3 * num_parts);
    const std::vector<size_t> shares = AllocateBits(curves.distortion, curves.num_widths, total);
    ASSERT_EQ(shares.size(), num_parts);
    ASSERT_LE(std::accumulate(shares.begin(), shares.end(), size_t{0}), total) << "seed " << seed;
    ASSERT_LT(*std::max_element(shares.begin(), shares.end()), curves.num_widths);
    const double greedy = curves.Of(Greedy(curves, total));
    ASSERT_LE(curves.Of(shares), greedy * (1.0 + 1e-12)) << "seed " << seed;
    better += curves.Of(shares) < greedy * (1.0 - 1e-9) ? 1 : 0;
    if (seed % 3 == 0) {
      // Convex curves: there greedy is the optimum, too.
      ASSERT_NEAR(curves.Of(shares), greedy, 1e-9 * greedy) << "seed " << seed;
    }
  }
  EXPECT_GT(better, 50U);
}

TEST(AllocateBits, FindsTheOptimumOfAllShares) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Curves curves = RandomCurves(1000 + seed, 4, 4, false);
    const size_t total = seed % 13;
    double least = std::numeric_limits<double>::infinity();
    for (size_t code = 0; code < 256; ++code) {
      const std::vector<size_t> shares = {code & 3U, code >> 2 & 3U, code >> 4 & 3U, code >> 6};
      if (std::accumulate(shares.begin(), shares.end(), size_t{0}) <= total) {
        least = std::min(least, curves.Of(shares));
      }
    }
    EXPECT_DOUBLE_EQ(curves.Of(AllocateBits(curves.distortion, 4, total)), least) << seed;
  }
}

TEST(AllocateBits, SkipsWidthsThatAreRuledOutAndSpendsNothingForNothing) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  // Only both units together help the first part.
  const std::vector<double> curves = {9.0, kNever, 1.0, 5.0, 4.0, kNever};
  EXPECT_THAT(AllocateBits(curves, 3, 2), testing::ElementsAre(2U, 0U));
  EXPECT_THAT(AllocateBits(curves, 3, 3), testing::ElementsAre(2U, 1U));
  EXPECT_THAT(AllocateBits(curves, 3, 1), testing::ElementsAre(0U, 1U));
  EXPECT_THAT(AllocateBits(curves, 3, 0), testing::ElementsAre(0U, 0U));
  EXPECT_THAT(AllocateBits(std::vector<double>(6, 0.0), 3, 9), testing::ElementsAre(0U, 0U));
  EXPECT_THAT(AllocateBits({}, 3, 9), testing::IsEmpty());
}

}  // namespace
}  // namespace varve
