// How counts of things (tokens, heads, features) are split over ranks: consecutive parts, as even
// as can be, the first ones larger by one. Parts may be empty.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace varve {

struct Range {
  size_t begin = 0;
  size_t count = 0;
  size_t end() const { return begin + count; }
};

// part counts: [num_parts]
inline std::vector<size_t> SplitEvenly(size_t total, size_t num_parts) {
  std::vector<size_t> counts(num_parts, total / num_parts);
  for (size_t i = 0; i < total % num_parts; ++i) {
    ++counts[i];
  }
  return counts;
}

inline Range PartOf(std::span<const size_t> counts, size_t part) {
  Range range{.begin = 0, .count = counts[part]};
  for (size_t i = 0; i < part; ++i) {
    range.begin += counts[i];
  }
  return range;
}

// The part of `range` that lies in [begin, begin + count), relative to begin.
inline Range Overlap(Range range, size_t begin, size_t count) {
  const size_t from = range.begin > begin ? range.begin : begin;
  const size_t to = range.end() < begin + count ? range.end() : begin + count;
  return from < to ? Range{from - begin, to - from} : Range{0, 0};
}

}  // namespace varve
