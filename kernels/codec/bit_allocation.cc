#include "kernels/codec/bit_allocation.h"

#include <algorithm>
#include <cstdint>

#include "proto/base/check.h"

namespace varve {

std::vector<size_t> AllocateBits(std::span<const double> distortion,
                                 size_t num_widths,
                                 size_t total) {
  VARVE_CHECK(num_widths >= 1 && num_widths <= 256 && distortion.size() % num_widths == 0);
  const size_t num_parts = distortion.size() / num_widths;
  // least[spent]: of the parts so far, when they spend at most so much.
  std::vector<double> least(total + 1, 0.0);
  std::vector<double> next(total + 1);
  std::vector<uint8_t> widths(num_parts * (total + 1));  // of the last of them
  for (size_t part = 0; part < num_parts; ++part) {
    const std::span<const double> own = distortion.subspan(part * num_widths, num_widths);
    for (size_t spent = 0; spent <= total; ++spent) {
      double best = least[spent] + own[0];
      size_t choice = 0;
      for (size_t width = 1; width < std::min(num_widths, spent + 1); ++width) {
        const double sum = least[spent - width] + own[width];
        if (sum < best) {
          best = sum;
          choice = width;
        }
      }
      next[spent] = best;
      widths[part * (total + 1) + spent] = static_cast<uint8_t>(choice);
    }
    std::swap(least, next);
  }
  std::vector<size_t> shares(num_parts);
  for (size_t part = num_parts, left = total; part-- > 0;) {
    shares[part] = widths[part * (total + 1) + left];
    left -= shares[part];
  }
  return shares;
}

}  // namespace varve
