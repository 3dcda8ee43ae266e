// Differential fuzz: random shapes, codecs, cuts and masks against the reference, on every
// instruction set. A failure prints its seed; `kernels_fuzz FIRST COUNT` runs seeds [FIRST, FIRST +
// COUNT).
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/simd_targets.h"
#include "proto/base/rng.h"
#include "tests/kernels/attend_cases.h"

namespace varve {
namespace {

AttendCase RandomCase(uint64_t seed) {
  Rng rng(seed);
  const auto below = [&rng](uint64_t bound) { return static_cast<int32_t>(rng.Below(bound)); };
  AttendCase out;
  out.seed = seed;
  out.num_kv_heads = 1 + below(3);
  out.group_size = 1 + below(16);
  // Few enough that tables made for one case serve others.
  constexpr int32_t kHeadDims[] = {1, 3, 24, 50, 64, 80, 128, 253};
  out.head_dim = kHeadDims[below(std::size(kHeadDims))];
  out.logit_softcap = below(4) == 0 ? 0.5F + static_cast<float>(below(50)) : 0.0F;
  out.window = below(3) == 0 ? 1 + below(300) : 0;
  out.per_view = below(3) == 0;
  int64_t position = below(2) == 0 ? 0 : int64_t{1} << (20 + below(12));
  const int64_t begin = position;
  for (int32_t view = 0, count = below(9); view < count; ++view) {
    ViewCase next;
    next.codec = AllCodecs()[below(static_cast<int32_t>(AllCodecs().size()))]->id();
    next.token_capacity = 1 + below(below(4) == 0 ? 400 : 130);
    if (next.codec == CodecId::kRvq8Large) {
      next.token_capacity = 1 + next.token_capacity % 4;  // its search is slow
    }
    next.first_token = below(next.token_capacity);
    next.num_tokens = below(next.token_capacity - next.first_token + 1);
    next.first_position = position;
    next.pruned = below(5) == 0;
    position += next.first_token + next.num_tokens + (below(4) == 0 ? below(50) : 0);
    out.views.push_back(next);
  }
  const int32_t limit = 4096 / (out.group_size * out.num_kv_heads);
  int64_t query = begin + rng.Below(position - begin + 2);
  for (int32_t i = 0, count = below(2) == 0 ? below(4) : below(limit) / 8; i < count; ++i) {
    out.positions.push_back(query);
    query += 1 + (below(10) == 0 ? below(100) : 0);
  }
  return out;
}

int Main(uint64_t first_seed, uint64_t num_seeds) {
  std::vector<std::unique_ptr<ThreadTeam>> teams;
  for (int threads = 1; threads <= 3; ++threads) {
    teams.push_back(std::make_unique<ThreadTeam>(threads));
  }
  const std::vector<SimdTarget> targets = SimdTargets();
  for (uint64_t seed = first_seed; seed < first_seed + num_seeds; ++seed) {
    const SimdTarget& target = targets[seed % targets.size()];
    ForceSimdTarget(target);
    const std::string wrong = CheckAgainstReference(RandomCase(seed), *teams[seed % 3]);
    if (!wrong.empty()) {
      std::fprintf(stderr,
                   "seed %llu on %s: %s\n",
                   static_cast<unsigned long long>(seed),
                   target.name.c_str(),
                   wrong.c_str());
      return 1;
    }
  }
  std::printf("%llu random cases agree with the reference\n",
              static_cast<unsigned long long>(num_seeds));
  return 0;
}

}  // namespace
}  // namespace varve

int main(int argc, char** argv) {
  const uint64_t first_seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0;
  const uint64_t num_seeds = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 300;
  return varve::Main(first_seed, num_seeds);
}
