// Groups of the rvq codecs (codec/rvq_block.h) in vector registers, per target.
#if defined(VARVE_KERNELS_CPU_RVQ_GROUPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_RVQ_GROUPS_INL_H_
#undef VARVE_KERNELS_CPU_RVQ_GROUPS_INL_H_
#else
#define VARVE_KERNELS_CPU_RVQ_GROUPS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/codec/rvq_block.h"
#include "kernels/cpu/attend_plan.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// All lanes of a group: 32 floats in as many registers as they take.
using RvqTag = hn::CappedTag<float, 16>;

// The indices of the stages of one group: RvqIndex, of all at once.
template <size_t kStages, size_t kBits>
HWY_INLINE void LoadRvqIndices(const std::byte* group, uint32_t* indices) {
  if constexpr (kBits == 8) {
    for (size_t s = 0; s < kStages; ++s) {
      indices[s] = static_cast<uint32_t>(group[s]);
    }
  } else {
    // Eleven bytes, in two words that lie within them.
    static_assert(kBits == 11 && kStages == 8);
    uint64_t low;
    uint64_t high;
    std::memcpy(&low, group, sizeof(low));
    std::memcpy(&high, group + 3, sizeof(high));
    for (size_t s = 0; s < kStages; ++s) {
      const uint64_t bits = s < 5 ? low >> (s * kBits) : high >> (s * kBits - 24);
      indices[s] = static_cast<uint32_t>(bits & ((1U << kBits) - 1));
    }
  }
}

// out[i] = scale * sum over the stages of channel i of their codewords.
template <size_t kStages, size_t kBits>
HWY_INLINE void SumRvqGroup(const float* codebooks,
                            const std::byte* group,
                            float scale,
                            float* out) {
  const RvqTag d;
  constexpr size_t kCodebook = (size_t{1} << kBits) * kRvqGroup;
  uint32_t indices[kStages];
  LoadRvqIndices<kStages, kBits>(group, indices);
  for (size_t i = 0; i < kRvqGroup; i += hn::Lanes(d)) {
    auto sum = hn::LoadU(d, codebooks + indices[0] * kRvqGroup + i);
#pragma GCC unroll 8
    for (size_t s = 1; s < kStages; ++s) {
      sum = hn::Add(sum, hn::LoadU(d, codebooks + s * kCodebook + indices[s] * kRvqGroup + i));
    }
    hn::StoreU(hn::Mul(sum, hn::Set(d, scale)), d, out + i);
  }
}

// From sequences one behind the other, each of `length`, to their first values, their second
// values, ...: groups of a row of keys in the order of its channels.
template <class T>
void InterleaveRvqGroups(const T* sequences, size_t count, size_t length, T* out) {
  const hn::CappedTag<T, kRvqGroup> d;
  const auto load = [&](size_t sequence, size_t i)
                        HWY_ATTR { return hn::LoadU(d, sequences + sequence * length + i); };
  if (count == 2) {
    for (size_t i = 0; i < length; i += hn::Lanes(d)) {
      hn::StoreInterleaved2(load(0, i), load(1, i), d, out + 2 * i);
    }
  } else if (count == 3) {
    for (size_t i = 0; i < length; i += hn::Lanes(d)) {
      hn::StoreInterleaved3(load(0, i), load(1, i), load(2, i), d, out + 3 * i);
    }
  } else if (count == 4) {
    for (size_t i = 0; i < length; i += hn::Lanes(d)) {
      hn::StoreInterleaved4(load(0, i), load(1, i), load(2, i), load(3, i), d, out + 4 * i);
    }
  } else if (count % 2 == 0) {
    alignas(64) T pairs[kMaxHeadDim];
    for (size_t first = 0; first < count / 2; ++first) {
      for (size_t i = 0; i < length; i += hn::Lanes(d)) {
        hn::StoreInterleaved2(
            load(first, i), load(first + count / 2, i), d, pairs + 2 * (first * length + i));
      }
    }
    InterleaveRvqGroups(pairs, count / 2, 2 * length, out);
  } else {
    for (size_t sequence = 0; sequence < count; ++sequence) {
      for (size_t i = 0; i < length; ++i) {
        out[i * count + sequence] = sequences[sequence * length + i];
      }
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
