// Which of the compiled instruction sets run here, and, for tests, running only one of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace varve {

struct SimdTarget {
  int64_t id;
  std::string name;  // "AVX3" (AVX-512), "AVX2", "SSE4"
};

// The targets that this build has and this machine can run, best first.
std::vector<SimdTarget> SimdTargets();

// From now on every kernel runs on `target` only. For tests; not while a kernel runs on another
// thread.
void ForceSimdTarget(const SimdTarget& target);
// Back to the best target of this machine.
void UseBestSimdTarget();

}  // namespace varve
