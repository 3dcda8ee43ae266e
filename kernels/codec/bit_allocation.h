// How many bits each part of a transformed row gets, under a budget.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace varve {

// The shares of `total` units of rate with the least sum of distortions: distortion[part *
// num_widths + width] is what is lost of a part that gets `width` units, any numbers. Dynamic
// programming over the parts: the optimum, also where a further unit helps more than the one before
// it (measured curves) or a width is ruled out (infinity; width 0 never is). Shares add up to at
// most `total`; of equally good ones, those that spend less on the last parts. Time: parts * total
// * widths.
std::vector<size_t> AllocateBits(std::span<const double> distortion,
                                 size_t num_widths,
                                 size_t total);

}  // namespace varve
