// Norm, rotary embedding, activations and the other passes over fp32 activations.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <cmath>

#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/widen-inl.h"
#include "kernels/dense.h"

#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::ScalableTag<float>;

// The sum of squares is taken in eight-lane order on every target and in double: an RMS is one
// number for a whole row, and an error in it is an error of every value.
float MeanSquare(const float* x, size_t dim) {
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= dim; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) {
      sums[lane] += static_cast<double>(x[i + lane]) * x[i + lane];
    }
  }
  for (; i < dim; ++i) {
    sums[i % 8] += static_cast<double>(x[i]) * x[i];
  }
  double sum = 0.0;
  for (const double part : sums) {
    sum += part;
  }
  return static_cast<float>(sum / static_cast<double>(dim));
}

template <DType kDType>
void NormRow(const float* x,
             size_t dim,
             const std::byte* w,
             float weight_offset,
             float factor,
             float* y) {
  const Tag d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    const auto weight = LoadWide<kDType>(d, w + i * kStoredBytes<kDType>);
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor));
    hn::StoreU(hn::Mul(scaled, hn::Add(weight, hn::Set(d, weight_offset))), d, y + i);
  }
  for (; i < dim; ++i) {
    const float weight = LoadWideScalar<kDType>(w + i * kStoredBytes<kDType>);
    y[i] = (x[i] * factor) * (weight + weight_offset);
  }
}

void RmsNormOnTarget(const float* x,
                     size_t x_stride,
                     size_t tokens,
                     size_t dim,
                     const void* w,
                     DType w_dtype,
                     float weight_offset,
                     float eps,
                     float* y,
                     size_t y_stride) {
  const auto* weights = static_cast<const std::byte*>(w);
  for (size_t token = 0; token < tokens; ++token) {
    const float* row = x + token * x_stride;
    float* out = y + token * y_stride;
    const float factor = 1.0F / std::sqrt(MeanSquare(row, dim) + eps);
    if (weights == nullptr) {
      for (size_t i = 0; i < dim; ++i) {
        out[i] = row[i] * factor;
      }
    } else if (w_dtype == DType::kF32) {
      NormRow<DType::kF32>(row, dim, weights, weight_offset, factor, out);
    } else if (w_dtype == DType::kBf16) {
      NormRow<DType::kBf16>(row, dim, weights, weight_offset, factor, out);
    } else {
      NormRow<DType::kF16>(row, dim, weights, weight_offset, factor, out);
    }
  }
}

// One head: the pair (i, i + half) turns by the angle whose cosine and sine are cos_sin[i].
void RotateHead(float* x, size_t half, const float* cos_sin) {
  const Tag d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    hn::Vec<Tag> cos;
    hn::Vec<Tag> sin;
    hn::LoadInterleaved2(d, cos_sin + 2 * i, cos, sin);
    const auto a = hn::LoadU(d, x + i);
    const auto b = hn::LoadU(d, x + half + i);
    hn::StoreU(hn::Sub(hn::Mul(a, cos), hn::Mul(b, sin)), d, x + i);
    hn::StoreU(hn::Add(hn::Mul(b, cos), hn::Mul(a, sin)), d, x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    const float cos = cos_sin[2 * i];
    const float sin = cos_sin[2 * i + 1];
    x[i] = a * cos - b * sin;
    x[half + i] = b * cos + a * sin;
  }
}

void ApplyRopeOnTarget(float* x,
                       size_t x_stride,
                       size_t tokens,
                       size_t num_heads,
                       size_t head_dim,
                       const float* cos_sin) {
  const size_t half = head_dim / 2;
  for (size_t token = 0; token < tokens; ++token) {
    for (size_t head = 0; head < num_heads; ++head) {
      RotateHead(x + token * x_stride + head * head_dim, half, cos_sin + token * head_dim);
    }
  }
}

template <class D>
HWY_INLINE hn::Vec<D> Silu(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0F);
  return hn::Div(x, hn::Add(one, FastExp(d, hn::Neg(x))));
}

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)),  u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class D>
HWY_INLINE hn::Vec<D> GeluTanh(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0F);
  const auto cubic = hn::MulAdd(hn::Mul(x, x), hn::Set(d, 0.044715F), one);
  const auto u = hn::Mul(hn::Mul(x, hn::Set(d, -1.5957691216F)), cubic);
  return hn::Div(x, hn::Add(one, FastExp(d, u)));
}

template <Activation kActivation>
void GateValues(float* gate, const float* up, size_t count) {
  const Tag d;
  const size_t lanes = hn::Lanes(d);
  const auto activate = [d](hn::Vec<Tag> x) HWY_ATTR {
    if constexpr (kActivation == Activation::kSilu) {
      return Silu(d, x);
    } else {
      return GeluTanh(d, x);
    }
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::Mul(activate(hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, gate + i);
  }
  for (; i < count; ++i) {
    gate[i] = hn::GetLane(activate(hn::Set(d, gate[i]))) * up[i];
  }
}

void GatedActivationOnTarget(Activation activation, float* gate, const float* up, size_t count) {
  if (activation == Activation::kSilu) {
    GateValues<Activation::kSilu>(gate, up, count);
  } else {
    GateValues<Activation::kGeluTanh>(gate, up, count);
  }
}

void SoftcapOnTarget(float* y, float cap, size_t count) {
  const Tag d;
  const size_t lanes = hn::Lanes(d);
  const auto capped = [d, cap](hn::Vec<Tag> x) HWY_ATTR {
    return hn::Mul(hn::Set(d, cap), hn::Tanh(d, hn::Div(x, hn::Set(d, cap))));
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(capped(hn::LoadU(d, y + i)), d, y + i);
  }
  for (; i < count; ++i) {
    y[i] = hn::GetLane(capped(hn::Set(d, y[i])));
  }
}

void AddInPlaceOnTarget(float* HWY_RESTRICT y, const float* HWY_RESTRICT x, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    y[i] += x[i];
  }
}

void ScaleInPlaceOnTarget(float* y, float factor, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    y[i] *= factor;
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(RmsNormOnTarget);
HWY_EXPORT(ApplyRopeOnTarget);
HWY_EXPORT(GatedActivationOnTarget);
HWY_EXPORT(SoftcapOnTarget);
HWY_EXPORT(AddInPlaceOnTarget);
HWY_EXPORT(ScaleInPlaceOnTarget);

void RmsNorm(const float* x,
             size_t x_stride,
             size_t tokens,
             size_t dim,
             const void* w,
             DType w_dtype,
             float weight_offset,
             float eps,
             float* y,
             size_t y_stride) {
  HWY_DYNAMIC_DISPATCH(RmsNormOnTarget)
  (x, x_stride, tokens, dim, w, w_dtype, weight_offset, eps, y, y_stride);
}

void ApplyRope(float* x,
               size_t x_stride,
               size_t tokens,
               size_t num_heads,
               size_t head_dim,
               const float* cos_sin) {
  HWY_DYNAMIC_DISPATCH(ApplyRopeOnTarget)(x, x_stride, tokens, num_heads, head_dim, cos_sin);
}

void GatedActivation(Activation activation, float* gate, const float* up, size_t count) {
  HWY_DYNAMIC_DISPATCH(GatedActivationOnTarget)(activation, gate, up, count);
}

void SoftcapInPlace(float* y, float cap, size_t count) {
  HWY_DYNAMIC_DISPATCH(SoftcapOnTarget)(y, cap, count);
}

void AddInPlace(float* y, const float* x, size_t count) {
  HWY_DYNAMIC_DISPATCH(AddInPlaceOnTarget)(y, x, count);
}

void ScaleInPlace(float* y, float factor, size_t count) {
  HWY_DYNAMIC_DISPATCH(ScaleInPlaceOnTarget)(y, factor, count);
}

}  // namespace varve
#endif  // HWY_ONCE
