// Floats in their order as integers without gaps: what bisection runs over.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace varve {

// Not of NaN. Both zeros are 0.
inline int32_t Ordinal(float x) {
  const auto bits = std::bit_cast<int32_t>(x);
  return bits >= 0 ? bits : std::numeric_limits<int32_t>::min() - bits;
}

inline float OfOrdinal(int32_t ordinal) {
  return std::bit_cast<float>(ordinal >= 0 ? ordinal
                                           : std::numeric_limits<int32_t>::min() - ordinal);
}

}  // namespace varve
