#include "ops/cli/bench/roofs.h"

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cli/bench/roofs.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

#include "kernels/thread_team.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Twelve chains hide the latency of two FMA units. Returns their sum, so that no compiler leaves
// them out.
float FmaChains(size_t num_rounds) {
  const hn::ScalableTag<float> d;
  constexpr size_t kChains = 12;
  hn::Vec<decltype(d)> chain[kChains];
  for (size_t i = 0; i < kChains; ++i) {
    chain[i] = hn::Set(d, static_cast<float>(i));
  }
  const auto factor = hn::Set(d, 0.999F);
  const auto summand = hn::Set(d, 0.5F);
  for (size_t round = 0; round < num_rounds; ++round) {
#pragma GCC unroll 12
    for (size_t i = 0; i < kChains; ++i) {
      chain[i] = hn::MulAdd(chain[i], factor, summand);
    }
  }
  auto sum = chain[0];
  for (size_t i = 1; i < kChains; ++i) {
    sum = hn::Add(sum, chain[i]);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

double FmaChainFlops() {
  constexpr double kChains = 12.0;
  return 2.0 * kChains * static_cast<double>(hn::Lanes(hn::ScalableTag<float>()));
}

float SumFloats(const float* values, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d);
  auto b = hn::Zero(d);
  auto c = hn::Zero(d);
  auto e = hn::Zero(d);
  for (size_t i = 0; i + 4 * lanes <= count; i += 4 * lanes) {
    a = hn::Add(a, hn::LoadU(d, values + i));
    b = hn::Add(b, hn::LoadU(d, values + i + lanes));
    c = hn::Add(c, hn::LoadU(d, values + i + 2 * lanes));
    e = hn::Add(e, hn::LoadU(d, values + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(FmaChains);
HWY_EXPORT(FmaChainFlops);
HWY_EXPORT(SumFloats);

// A few rounds can be over before the scheduler has given each thread a core of its own.
constexpr double kProbeSeconds = 0.3;

// Seconds of the fastest of the calls that fit into kProbeSeconds.
template <typename Body>
double BestSeconds(Body body) {
  double best = 1e30;
  for (double total = 0; total < kProbeSeconds;) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::min(best, elapsed.count());
    total += elapsed.count();
  }
  return best;
}

}  // namespace

Roofs MeasureRoofs(int threads) {
  ThreadTeam team(threads);
  std::vector<float> sums(threads, 0.0F);
  volatile float sink = 0.0F;

  // Far larger than any cache, dealt out in pieces so that a late thread does not hold up the
  // others.
  constexpr size_t kFloats = size_t{64} << 20;
  constexpr size_t kPiece = size_t{1} << 18;
  const std::vector<float> values(kFloats, 1.0F);
  const double read_seconds = BestSeconds([&] {
    team.ParallelFor(kFloats / kPiece, [&](size_t piece, int thread) {
      sums[thread] += HWY_DYNAMIC_DISPATCH(SumFloats)(values.data() + piece * kPiece, kPiece);
    });
  });

  constexpr size_t kRounds = 200'000;
  const size_t num_pieces = static_cast<size_t>(threads) * 8;
  const double fma_seconds = BestSeconds([&] {
    team.ParallelFor(num_pieces, [&](size_t /*piece*/, int thread) {
      sums[thread] += HWY_DYNAMIC_DISPATCH(FmaChains)(kRounds);
    });
  });
  for (const float sum : sums) {
    sink = sink + sum;
  }

  Roofs roofs;
  roofs.read_bytes_per_s = static_cast<double>(kFloats * sizeof(float)) / read_seconds;
  roofs.fp32_flops_per_s = static_cast<double>(num_pieces * kRounds) *
                           HWY_DYNAMIC_DISPATCH(FmaChainFlops)() / fma_seconds;
  return roofs;
}

}  // namespace varve
#endif  // HWY_ONCE
