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

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One stage: pairs that lie `stride` apart become their sum and their difference. Every stage adds
// the same two numbers on every target, so that all agree on every bit.
inline void HadamardStage(float* x, size_t size, size_t stride) {
  // Eight lanes at most: the stages inside a vector are then the same everywhere.
  const hn::CappedTag<float, 8> d;
  const size_t lanes = hn::Lanes(d);
  if (stride >= lanes) {
    for (size_t begin = 0; begin < size; begin += 2 * stride) {
      for (size_t i = begin; i < begin + stride; i += lanes) {
        const auto a = hn::LoadU(d, x + i);
        const auto b = hn::LoadU(d, x + i + stride);
        hn::StoreU(hn::Add(a, b), d, x + i);
        hn::StoreU(hn::Sub(a, b), d, x + i + stride);
      }
    }
    return;
  }
  if (size < lanes) {
    for (size_t begin = 0; begin < size; begin += 2 * stride) {
      for (size_t i = begin; i < begin + stride; ++i) {
        const float a = x[i];
        const float b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
    return;
  }
  const hn::RebindToUnsigned<decltype(d)> d32;
  const auto is_second = hn::MaskFromVec(hn::BitCast(
      d,
      hn::VecFromMask(d32,
                      hn::Ne(hn::And(hn::Iota(d32, 0), hn::Set(d32, stride)), hn::Zero(d32)))));
  for (size_t i = 0; i < size; i += lanes) {
    const auto own = hn::LoadU(d, x + i);
    auto other = own;
    if (stride == 1) {
      other = hn::Shuffle2301(own);
    } else if (stride == 2) {
      other = hn::Shuffle1032(own);
    } else {
      other = hn::SwapAdjacentBlocks(own);
    }
    const auto sum = hn::Add(other, own);
    const auto difference = hn::Sub(other, own);
    hn::StoreU(hn::IfThenElse(is_second, difference, sum), d, x + i);
  }
}

// x = H x / sqrt(size), block by block of RotSize(head_dim).
inline void Hadamard(float* x, size_t head_dim) {
  const size_t size = RotSize(head_dim);
  for (size_t begin = 0; begin < head_dim; begin += size) {
    for (size_t stride = 1; stride < size; stride *= 2) {
      HadamardStage(x + begin, size, stride);
    }
  }
  const float factor = 1.0F / std::sqrt(static_cast<float>(size));
  for (size_t i = 0; i < head_dim; ++i) {
    x[i] *= factor;
  }
}

inline void ApplySigns(float* x, size_t head_dim) {
  for (size_t i = 0; i < head_dim; ++i) {
    x[i] *= RotSign(i);
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
