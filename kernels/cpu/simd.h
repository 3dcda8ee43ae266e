// Which instruction sets the loops are compiled for: AVX-512, AVX2 and a fallback of 128-bit
// vectors without FMA (SSE4 on x86, which every 64-bit server has had since 2008; what the compiler
// assumes elsewhere). Included before anything of Highway, in every file that has loops of its own.
#pragma once

#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_SSE4
// Each target costs compile time and must be tested: those between the three bring nothing, and
// under a sanitizer AVX-512 is the same text as AVX2 at the price of half the build.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_AVX3)
#else
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#endif
#endif
