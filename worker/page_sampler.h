// Which pages a step reads of those that it may leave out: the ones with the most mass for sure, a
// random sample of the others.
//
// Both follow from one rule. Each page has a size, an estimate of what it contributes; it is read
// with a probability in proportion to its size, and for sure where that would be 1 or more. A
// sample of fixed size with these probabilities is drawn by Pareto sampling (Rosen 1997): the pages
// with the lowest u (1 - p) / ((1 - u) p), u uniform. Where sizes are equal it is a simple random
// sample. A page's u depends on a seed and the page alone, so that larger samples of the same pages
// contain almost all of the smaller ones, and steps that follow each other draw almost the same
// pages: those are in memory.
//
// Threads: one caller at a time. Grows to the largest number of pages.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace varve {

class PageSampler {
 public:
  // A sample of fewer drawn pages says too little of its own error.
  static constexpr int64_t kFewestDrawn = 12;

  // sizes: [pages], positive; draws: [pages], in (0, 1). Both must outlive the sampler's use.
  void Reset(std::span<const float> sizes, std::span<const float> draws);

  // Reads `count` of the pages, or more where fewer would be read for sure than kFewestDrawn ones
  // can be drawn beside; all where that leaves fewer than kFewestDrawn out.
  void Choose(int64_t count);

  // Of the last Choose. [pages], 1: read for sure; 0: not read.
  std::span<const float> probabilities() const { return probabilities_; }
  int64_t num_chosen() const { return num_chosen_; }
  int64_t num_drawn() const { return num_drawn_; }  // not for sure

 private:
  std::span<const float> sizes_;
  std::span<const float> draws_;
  std::vector<int64_t> by_size_;      // pages, the largest first
  std::vector<double> sizes_behind_;  // [pages + 1], of by_size_[i] and all behind it
  std::vector<std::pair<double, int64_t>> order_;
  std::vector<float> probabilities_;
  int64_t num_chosen_ = 0;
  int64_t num_drawn_ = 0;
};

// The draw of a page: uniform in (0, 1).
float DrawOf(uint64_t seed, int32_t layer, int64_t page);

}  // namespace varve
