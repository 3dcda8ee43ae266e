#include "worker/rope_table.h"

#include <cmath>

namespace varve {

void FillRopeTable(const RopeSpec& spec,
                   std::span<const int64_t> positions,
                   std::span<float> cos_sin) {
  VARVE_CHECK(cos_sin.size() == positions.size() * spec.inv_freq.size() * 2);
  float* out = cos_sin.data();
  for (const int64_t position : positions) {
    for (const double inv_freq : spec.inv_freq) {
      const double angle = static_cast<double>(position) * inv_freq;
      *out++ = static_cast<float>(std::cos(angle) * spec.attention_factor);
      *out++ = static_cast<float>(std::sin(angle) * spec.attention_factor);
    }
  }
}

}  // namespace varve
