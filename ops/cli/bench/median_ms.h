// How long something takes.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace varve {

// Once without being timed, then the median of `runs`.
template <class Work>
double MedianMs(int runs, const Work& work) {
  std::vector<double> times;
  work();
  for (int run = 0; run < runs; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::milli> elapsed =
        std::chrono::steady_clock::now() - begin;
    times.push_back(elapsed.count());
  }
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return times[runs / 2];
}

}  // namespace varve
