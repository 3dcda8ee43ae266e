#include "kernels/codec/skvq_groups.h"

#include <algorithm>
#include <cmath>

#include "kernels/codec/skvq_block.h"

namespace varve {

SkvqCodedGroup CodeSkvqGroup(size_t bits,
                             float alpha,
                             const float* y,
                             size_t num_tokens,
                             size_t width,
                             size_t stride) {
  SkvqCodedGroup coded;
  coded.scales.resize(num_tokens);
  coded.offsets.resize(num_tokens);
  coded.codes.resize(num_tokens * width);
  std::vector<float> offsets(num_tokens);  // until rounded: the lower ends
  std::vector<float> scales(num_tokens);   // until rounded: the upper ends
  float largest = 0.0F;
  for (size_t t = 0; t < num_tokens; ++t) {
    const auto [low, high] = std::minmax_element(y + t * stride, y + t * stride + width);
    offsets[t] = SkvqLow(alpha, *low, *high);
    scales[t] = SkvqHigh(alpha, *low, *high);
    largest = std::max(largest, std::fabs(offsets[t]));
  }
  coded.offset_unit = Fp8Scale(largest);
  const float offset_unit = F16ToFloat(coded.offset_unit);
  largest = 0.0F;
  for (size_t t = 0; t < num_tokens; ++t) {
    coded.offsets[t] = SkvqFp8(offsets[t], offset_unit);
    offsets[t] = Fp8ToFloat(coded.offsets[t]) * offset_unit;
    scales[t] = std::max(scales[t] - offsets[t], 0.0F) / static_cast<float>((1U << bits) - 1);
    largest = std::max(largest, scales[t]);
  }
  coded.scale_unit = Fp8Scale(largest);
  const float scale_unit = F16ToFloat(coded.scale_unit);
  for (size_t t = 0; t < num_tokens; ++t) {
    coded.scales[t] = SkvqFp8(scales[t], scale_unit);
    const float scale = Fp8ToFloat(coded.scales[t]) * scale_unit;
    for (size_t i = 0; i < width; ++i) {
      coded.codes[t * width + i] =
          static_cast<uint8_t>(SkvqCode(bits, y[t * stride + i], scale, offsets[t]));
    }
  }
  return coded;
}

}  // namespace varve
