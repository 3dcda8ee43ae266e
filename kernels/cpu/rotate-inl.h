// The rotation of the codecs rot4, rot3 and rot2 (codec/rot_block.h), per target.
#if defined(VARVE_KERNELS_CPU_ROTATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_ROTATE_INL_H_
#undef VARVE_KERNELS_CPU_ROTATE_INL_H_
#else
#define VARVE_KERNELS_CPU_ROTATE_INL_H_
#endif

#include <cmath>
#include <cstddef>

#include "kernels/codec/rot_block.h"

#include "hwy/highway.h"

#ifndef VARVE_KERNELS_CPU_ROTATE_ONCE_
#define VARVE_KERNELS_CPU_ROTATE_ONCE_
namespace varve {

struct RotSigns {
  constexpr RotSigns() {
    for (size_t i = 0; i < kMaxHeadDim; ++i) {
      values[i] = RotSign(i);
    }
  }
  alignas(64) float values[kMaxHeadDim] = {};
};
inline constexpr RotSigns kRotSigns;

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The transform in stages: in each, pairs that lie a stride apart become their sum and their
// difference. Every stage adds the same two numbers on every target, whatever stages go through
// registers together, so that all agree on every bit. Eight lanes at most: the stages inside a
// vector are then the same everywhere.
using HadamardTag = hn::CappedTag<float, 8>;

// Lane by lane: `swapped` is `own` with lanes exchanged that lie kStride apart.
template <size_t kStride>
HWY_INLINE hn::Vec<HadamardTag> InVectorStage(hn::Vec<HadamardTag> own,
                                              hn::Vec<HadamardTag> swapped) {
  const HadamardTag d;
  const hn::RebindToUnsigned<HadamardTag> d32;
  const auto is_second = hn::MaskFromVec(hn::BitCast(
      d,
      hn::VecFromMask(d32,
                      hn::Ne(hn::And(hn::Iota(d32, 0), hn::Set(d32, kStride)), hn::Zero(d32)))));
  return hn::IfThenElse(is_second, hn::Sub(swapped, own), hn::Add(swapped, own));
}

// Stages of strides below a vector's length. size: a multiple of that.
inline void StagesInVectors(float* x, size_t size) {
  const HadamardTag d;
  for (size_t i = 0; i < size; i += hn::Lanes(d)) {
    auto v = hn::LoadU(d, x + i);
    v = InVectorStage<1>(v, hn::Shuffle2301(v));
    v = InVectorStage<2>(v, hn::Shuffle1032(v));
    if constexpr (hn::MaxLanes(HadamardTag()) == 8) {
      v = InVectorStage<4>(v, hn::SwapAdjacentBlocks(v));
    }
    hn::StoreU(v, d, x + i);
  }
}

// One stage of at least a vector's length.
inline void VectorStage(float* x, size_t size, size_t stride) {
  const HadamardTag d;
  for (size_t begin = 0; begin < size; begin += 2 * stride) {
    for (size_t i = begin; i < begin + stride; i += hn::Lanes(d)) {
      const auto a = hn::LoadU(d, x + i);
      const auto b = hn::LoadU(d, x + i + stride);
      hn::StoreU(hn::Add(a, b), d, x + i);
      hn::StoreU(hn::Sub(a, b), d, x + i + stride);
    }
  }
}

// The stages of `stride` and of twice as much, which read and write memory once.
inline void TwoVectorStages(float* x, size_t size, size_t stride) {
  const HadamardTag d;
  for (size_t begin = 0; begin < size; begin += 4 * stride) {
    for (size_t i = begin; i < begin + stride; i += hn::Lanes(d)) {
      const auto a = hn::LoadU(d, x + i);
      const auto b = hn::LoadU(d, x + i + stride);
      const auto c = hn::LoadU(d, x + i + 2 * stride);
      const auto e = hn::LoadU(d, x + i + 3 * stride);
      const auto ab = hn::Add(a, b);
      const auto a_b = hn::Sub(a, b);
      const auto ce = hn::Add(c, e);
      const auto c_e = hn::Sub(c, e);
      hn::StoreU(hn::Add(ab, ce), d, x + i);
      hn::StoreU(hn::Add(a_b, c_e), d, x + i + stride);
      hn::StoreU(hn::Sub(ab, ce), d, x + i + 2 * stride);
      hn::StoreU(hn::Sub(a_b, c_e), d, x + i + 3 * stride);
    }
  }
}

// Of fewer numbers than a vector has.
inline void ScalarStages(float* x, size_t size) {
  for (size_t stride = 1; stride < size; stride *= 2) {
    for (size_t begin = 0; begin < size; begin += 2 * stride) {
      for (size_t i = begin; i < begin + stride; ++i) {
        const float a = x[i];
        const float b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
  }
}

// x = H x / sqrt(size), block by block of RotSize(head_dim).
inline void Hadamard(float* x, size_t head_dim) {
  const HadamardTag d;
  const size_t size = RotSize(head_dim);
  for (size_t begin = 0; begin < head_dim; begin += size) {
    if (size < hn::Lanes(d)) {
      ScalarStages(x + begin, size);
      continue;
    }
    StagesInVectors(x + begin, size);
    size_t stride = hn::Lanes(d);
    for (; 4 * stride <= size; stride *= 4) {
      TwoVectorStages(x + begin, size, stride);
    }
    if (stride < size) {
      VectorStage(x + begin, size, stride);
    }
  }
  const auto factor = 1.0F / std::sqrt(static_cast<float>(size));
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i);
  }
  for (; i < head_dim; ++i) {
    x[i] *= factor;
  }
}

inline void ApplySigns(float* x, size_t head_dim) {
  const hn::CappedTag<float, 8> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    const auto signs = hn::Load(d, kRotSigns.values + i);
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), signs), d, x + i);
  }
  for (; i < head_dim; ++i) {
    x[i] *= kRotSigns.values[i];
  }
}

inline void RotateRow(float* x, size_t head_dim) {
  ApplySigns(x, head_dim);
  Hadamard(x, head_dim);
}

// The inverse: H is its own.
inline void UnrotateRow(float* x, size_t head_dim) {
  Hadamard(x, head_dim);
  ApplySigns(x, head_dim);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
