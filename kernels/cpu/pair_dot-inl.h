// Products of 16-bit integers, added in pairs to 32-bit sums, and floats rounded to such integers,
// per target: the only place with instructions that Highway 1.0.3 lacks.
#if defined(VARVE_KERNELS_CPU_PAIR_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_PAIR_DOT_INL_H_
#undef VARVE_KERNELS_CPU_PAIR_DOT_INL_H_
#else
#define VARVE_KERNELS_CPU_PAIR_DOT_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// sum[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1]. The caller sees to it that nothing overflows.
// kVnni: this processor has AVX512-VNNI (HasVnni).
template <bool kVnni, class V32, class V16>
HWY_INLINE V32 AddPairProducts(V32 sum, V16 a, V16 b) {
  const hn::DFromV<V32> d32;
#if HWY_TARGET == HWY_AVX3
  if constexpr (kVnni) {
    // As an intrinsic it would need a target of its own; the assembler knows it under any.
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
  // On x86 Highway's reordering is none: it adds neighbours, into the first sum.
  V32 unused = hn::Zero(d32);
  return hn::ReorderWidenMulAccumulate(d32, a, b, sum, unused);
#elif HWY_TARGET == HWY_AVX2
  // Two instructions in one piece: given them one by one, gcc 12 multiplies all of a tile before it
  // adds any of it, and the sums spill to the stack (0.7 times the speed).
  V16 products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sum.raw), "=&x"(products.raw)
      : "x"(a.raw), "x"(b.raw));
  return sum;
#elif HWY_ARCH_X86
  V32 unused = hn::Zero(d32);
  return hn::ReorderWidenMulAccumulate(d32, a, b, sum, unused);
#else
  const auto even = [&](V16 v) HWY_ATTR {
    return hn::ShiftRight<16>(hn::ShiftLeft<16>(hn::BitCast(d32, v)));
  };
  const auto odd = [&](V16 v) HWY_ATTR { return hn::ShiftRight<16>(hn::BitCast(d32, v)); };
  return hn::Add(hn::Add(sum, hn::Mul(even(a), even(b))), hn::Mul(odd(a), odd(b)));
#endif
}

// The same with b in memory, of the whole vector of 16-bit integers that starts at `b`.
template <bool kVnni, class V32, class V16>
HWY_INLINE V32 AddPairProductsFrom(V32 sum, V16 a, const int16_t* b) {
#if HWY_TARGET == HWY_AVX2
  // Registers are what limits a tile: a factor that few products share is better left in memory.
  V16 products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sum.raw), "=&x"(products.raw)
      : "x"(a.raw), "m"(*reinterpret_cast<const V16*>(b)));
  return sum;
#else
  return AddPairProducts<kVnni>(sum, a, hn::LoadU(hn::DFromV<V16>(), b));
#endif
}

inline constexpr float kMaxPairCode = 32767.0F;

// Rounds x[0, count) to integers of at most `limit` and returns what one of them is worth.
inline float QuantizeToPairs(const float* x, size_t count, float limit, int16_t* out) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<int16_t, decltype(d)> d16;
  const size_t lanes = hn::Lanes(d);
  auto largest_lanes = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    largest_lanes = hn::Max(largest_lanes, hn::Abs(hn::LoadU(d, x + i)));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes));
  for (size_t rest = i; rest < count; ++rest) {
    largest = std::max(largest, std::fabs(x[rest]));
  }
  // The reciprocal of less than this would be infinite.
  if (!(largest > 1e-30F) || largest > 1e37F) {
    std::fill(out, out + count, int16_t{0});
    return largest > 1e37F ? NAN : 0.0F;
  }
  const float factor = limit / largest;
  for (i = 0; i + lanes <= count; i += lanes) {
    const auto code = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)));
    hn::StoreU(hn::DemoteTo(d16, code), d16, out + i);
  }
  for (; i < count; ++i) {
    out[i] = static_cast<int16_t>(std::lrint(x[i] * factor));
  }
  return largest / limit;
}

inline bool HasVnni() {
#if HWY_TARGET == HWY_AVX3
  return __builtin_cpu_supports("avx512vnni") != 0;
#else
  return false;
#endif
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
