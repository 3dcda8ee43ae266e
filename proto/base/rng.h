// The seam to randomness: a small counter-based generator. The same seed and counter give the same
// number on every machine, so a step can be repeated, split over workers or resumed without
// carrying generator state.
#pragma once

#include <cstdint>

namespace varve {

// Mixes 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Rng {
 public:
  explicit constexpr Rng(uint64_t seed, uint64_t stream = 0)
      : state_(Mix64(seed) ^ Mix64(stream + 1)) {}

  constexpr uint64_t Next() { return Mix64(state_ += 0x9e3779b97f4a7c15ULL); }
  // Uniform in [0, 1).
  constexpr double NextDouble() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  // Uniform in [0, bound). REQUIRES: bound > 0.
  constexpr uint64_t Below(uint64_t bound) { return Next() % bound; }
  // Approximately normal, mean 0, variance 1 (sum of 12 uniforms: enough for tests and benches).
  constexpr float NextNormal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) {
      sum += NextDouble();
    }
    return static_cast<float>(sum);
  }

 private:
  uint64_t state_;
};

}  // namespace varve
