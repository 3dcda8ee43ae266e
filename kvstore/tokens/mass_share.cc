#include <algorithm>
#include <functional>

#include "kvstore/tokens/policies.h"

namespace varve {

MassShare::MassShare(const PageTokens& page, std::span<const float> scores)
    : num_tokens_(static_cast<size_t>(page.num_tokens)), sums_(scores.begin(), scores.end()) {
  for (size_t row = 0; row < sums_.size(); row += num_tokens_) {
    const auto begin = sums_.begin() + static_cast<ptrdiff_t>(row);
    const auto end = begin + static_cast<ptrdiff_t>(num_tokens_);
    std::sort(begin, end, std::greater<float>());
    double sum = 0;
    for (auto mass = begin; mass != end; ++mass) {
      sum += *mass;
      *mass = static_cast<float>(sum);
    }
  }
}

bool MassShare::has_mass() const {
  return Of(num_tokens_) > 0;
}

float MassShare::Of(size_t num_kept) const {
  float sum = 0;
  for (size_t row = 0; num_kept > 0 && row < sums_.size(); row += num_tokens_) {
    sum += sums_[row + num_kept - 1];
  }
  return sum;
}

int32_t MassShare::NumReaching(double share) const {
  const double wanted = share * static_cast<double>(Of(num_tokens_));
  size_t num_kept = 1;
  while (num_kept < num_tokens_ && static_cast<double>(Of(num_kept)) < wanted) {
    ++num_kept;
  }
  return static_cast<int32_t>(num_kept);
}

int32_t MassShare::NumReachingInEachHead(double share) const {
  size_t num_kept = 1;
  for (size_t row = 0; row < sums_.size(); row += num_tokens_) {
    const double wanted = share * static_cast<double>(sums_[row + num_tokens_ - 1]);
    while (num_kept < num_tokens_ && static_cast<double>(sums_[row + num_kept - 1]) < wanted) {
      ++num_kept;
    }
  }
  return static_cast<int32_t>(num_kept);
}

}  // namespace varve
