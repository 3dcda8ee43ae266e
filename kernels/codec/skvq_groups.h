// One group of channels of skvq4 and skvq2 (skvq_block.h) over a run: what the codec writes, and
// what calibration measures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace varve {

struct SkvqCodedGroup {
  uint16_t scale_unit = 0;       // half
  uint16_t offset_unit = 0;      // half
  std::vector<uint8_t> scales;   // [num_tokens] E4M3
  std::vector<uint8_t> offsets;  // [num_tokens] E4M3
  std::vector<uint8_t> codes;    // [num_tokens, width]
};

// y: [num_tokens, width] with `stride` floats from one token to the next.
SkvqCodedGroup CodeSkvqGroup(size_t bits,
                             float alpha,
                             const float* y,
                             size_t num_tokens,
                             size_t width,
                             size_t stride);

}  // namespace varve
