// How sure a share of right answers is.
#pragma once

#include <cstdint>
#include <vector>

namespace varve::cli {

struct Interval {
  double low = 0;
  double high = 0;
};

// The 95 % percentile bootstrap interval of the mean of `right` (1 or 0 for each question), 2,000
// resamples drawn by `seed`. REQUIRES: right is not empty.
Interval BootstrapMean(const std::vector<char>& right, uint64_t seed);

}  // namespace varve::cli
