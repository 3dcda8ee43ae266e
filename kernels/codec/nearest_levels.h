// NearestLevel (lloyd_max.h) of many values at once: the same numbers on every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace varve {

inline constexpr size_t kMaxLevelBits = 6;

// What NearestLevel compares with. Between two levels lies a threshold, the largest float that is
// nearest to the lower one; the number of the nearest level is how many thresholds x is above.
// Thresholds stand in rows of eight, of which the last ones choose the row.
struct LevelSearch {
  size_t bits = 0;
  alignas(32) float last[8];       // thresholds 8 row + 7
  alignas(32) float others[7][8];  // [i][row]: thresholds 8 row + i
};

// levels: 2^bits, ascending, of 1 to kMaxLevelBits bits.
LevelSearch MakeLevelSearch(std::span<const float> levels);

// codes[i] = NearestLevel(levels, x[i]); of NaN 0. REQUIRES: count a multiple of 8.
void NearestLevels(const LevelSearch& search, const float* x, size_t count, uint8_t* codes);

}  // namespace varve
