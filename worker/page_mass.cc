#include "worker/page_mass.h"

#include <algorithm>
#include <cmath>

namespace varve {

float* PageMass::NextViews(std::span<const int64_t> pages) {
  const size_t first = pages_.size() * rows_;
  pages_.insert(pages_.end(), pages.begin(), pages.end());
  lse_.resize(std::max(lse_.size(), pages_.size() * rows_));
  return lse_.data() + first;
}

void PageMass::Show(KvStore& store,
                    SequenceId sequence,
                    int32_t layer,
                    std::span<const float> lse) {
  shares_.resize(pages_.size());
  for (size_t view = 0; view < pages_.size(); ++view) {
    const float* own = lse_.data() + view * rows_;
    float sum = 0.0F;
    for (size_t row = 0; row < rows_; ++row) {
      // A view that no query may see has no mass; where there is no mass at all, nothing counts.
      const float share = std::exp(own[row] - lse[row]);
      sum += std::isfinite(share) ? share : 0.0F;
    }
    shares_[view] = std::min(1.0F, sum / static_cast<float>(rows_));
  }
  store.ObserveMass(sequence, layer, pages_, shares_);
}

}  // namespace varve
