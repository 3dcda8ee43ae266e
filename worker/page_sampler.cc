#include "worker/page_sampler.h"

#include <algorithm>
#include <numeric>

#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve {

void PageSampler::Reset(std::span<const float> sizes, std::span<const float> draws) {
  VARVE_CHECK(sizes.size() == draws.size());
  sizes_ = sizes;
  draws_ = draws;
  by_size_.resize(sizes.size());
  std::iota(by_size_.begin(), by_size_.end(), int64_t{0});
  std::sort(by_size_.begin(), by_size_.end(), [&](int64_t a, int64_t b) {
    const float size_a = sizes_[static_cast<size_t>(a)];
    const float size_b = sizes_[static_cast<size_t>(b)];
    return size_a > size_b || (size_a == size_b && a < b);
  });
  sizes_behind_.assign(sizes.size() + 1, 0.0);
  for (size_t i = sizes.size(); i-- > 0;) {
    sizes_behind_[i] = sizes_behind_[i + 1] + sizes_[static_cast<size_t>(by_size_[i])];
  }
}

void PageSampler::Choose(int64_t count) {
  const auto num_pages = static_cast<int64_t>(sizes_.size());
  probabilities_.assign(sizes_.size(), 0.0F);
  // 1. The pages that would be read with a probability of 1 or more.
  int64_t sure = 0;
  while (sure < num_pages) {
    const auto at = static_cast<size_t>(sure);
    const auto drawn = static_cast<double>(std::max(count - sure, kFewestDrawn));
    if (drawn * sizes_[static_cast<size_t>(by_size_[at])] < sizes_behind_[at]) {
      break;
    }
    ++sure;
  }
  num_drawn_ = std::max(count - sure, kFewestDrawn);
  if (num_pages - sure <= std::max(num_drawn_, kFewestDrawn)) {
    std::fill(probabilities_.begin(), probabilities_.end(), 1.0F);
    num_chosen_ = num_pages;
    num_drawn_ = 0;
    return;
  }
  for (int64_t i = 0; i < sure; ++i) {
    probabilities_[static_cast<size_t>(by_size_[static_cast<size_t>(i)])] = 1.0F;
  }
  // 2. Of the others, those that are drawn.
  const double scale = static_cast<double>(num_drawn_) / sizes_behind_[static_cast<size_t>(sure)];
  const auto probability_of = [&](int64_t page) {
    return scale * sizes_[static_cast<size_t>(page)];
  };
  order_.clear();
  for (int64_t i = sure; i < num_pages; ++i) {
    const int64_t page = by_size_[static_cast<size_t>(i)];
    const double p = probability_of(page);
    const double u = draws_[static_cast<size_t>(page)];
    order_.emplace_back(u * (1.0 - p) / ((1.0 - u) * p), page);
  }
  std::nth_element(order_.begin(), order_.begin() + (num_drawn_ - 1), order_.end());
  for (int64_t i = 0; i < num_drawn_; ++i) {
    const int64_t page = order_[static_cast<size_t>(i)].second;
    probabilities_[static_cast<size_t>(page)] = static_cast<float>(probability_of(page));
  }
  num_chosen_ = sure + num_drawn_;
}

float DrawOf(uint64_t seed, int32_t layer, int64_t page) {
  const uint64_t place = static_cast<uint64_t>(layer) << 48 ^ static_cast<uint64_t>(page);
  const uint64_t bits =
      Mix64(Mix64(seed) ^ place) >> 41;  // 23: exact in a float, also half a step on
  return (static_cast<float>(bits) + 0.5F) * 0x1.0p-23F;
}

}  // namespace varve
