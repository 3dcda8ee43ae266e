#include "ops/cli/eval/bootstrap.h"

#include <algorithm>

#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve::cli {

Interval BootstrapMean(const std::vector<char>& right, uint64_t seed) {
  VARVE_CHECK(!right.empty());
  constexpr size_t kResamples = 2000;
  Rng rng(seed);
  std::vector<double> means(kResamples);
  for (double& mean : means) {
    size_t sum = 0;
    for (size_t i = 0; i < right.size(); ++i) {
      sum += right[rng.Below(right.size())] != 0 ? 1 : 0;
    }
    mean = static_cast<double>(sum) / static_cast<double>(right.size());
  }
  std::sort(means.begin(), means.end());
  return {.low = means[kResamples / 40], .high = means[kResamples - 1 - kResamples / 40]};
}

}  // namespace varve::cli
