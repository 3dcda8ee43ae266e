#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/pca_loops.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>

#include "kernels/codec/pca_loops.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/group_codes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums that a loop keeps in registers: enough to hide the latency of an addition.
inline constexpr size_t kPcaTokens = 8;
static_assert(kPcaGroup % kPcaTokens == 0);

// Columns [column, column + lanes) of kPcaTokens rows of the product below.
template <class D>
HWY_INLINE void MultiplyColumns(D d,
                                const float* a,
                                size_t depth,
                                const float* b,
                                size_t b_stride,
                                float* c,
                                size_t c_stride) {
  hn::Vec<D> sum[kPcaTokens];
  for (auto& s : sum) {
    s = hn::Zero(d);
  }
  for (size_t k = 0; k < depth; ++k) {
    const auto row = hn::LoadU(d, b + k * b_stride);
#pragma GCC unroll 8
    for (size_t t = 0; t < kPcaTokens; ++t) {
      // No fused step: the sum is the same on every target.
      sum[t] = hn::Add(sum[t], hn::Mul(hn::Set(d, a[t * depth + k]), row));
    }
  }
  for (size_t t = 0; t < kPcaTokens; ++t) {
    hn::StoreU(sum[t], d, c + t * c_stride);
  }
}

template <class D>
void MultiplyPanel(D d,
                   const float* a,
                   size_t rows,
                   size_t depth,
                   const float* b,
                   size_t columns,
                   float* c) {
  for (size_t row = 0; row < rows; row += kPcaTokens) {
    MultiplyColumns(d, a + row * depth, depth, b, columns, c + row * columns, columns);
  }
}

void MultiplyInOrder(const float* a,
                     size_t rows,
                     size_t depth,
                     const float* b,
                     size_t columns,
                     float* c) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> d1;
  size_t column = 0;
  for (; column + hn::Lanes(d) <= columns; column += hn::Lanes(d)) {
    MultiplyPanel(d, a, rows, depth, b + column, columns, c + column);
  }
  for (; column < columns; ++column) {
    MultiplyPanel(d1, a, rows, depth, b + column, columns, c + column);
  }
}

// Groups that are unpacked before they are multiplied by their part of the basis.
inline constexpr size_t kPcaChunk = 8;

// Unpacked components of a few tokens, and their rows of the basis for one kv head.
struct PcaChunk {
  size_t num_components = 0;
  const float* basis[kPcaChunk * kPcaGroup];
  alignas(64) float y[kPcaTokens][kPcaChunk * kPcaGroup] = {};
};

// sums[t] += y[t] basis.
void AddChunk(const PcaChunk& chunk, size_t head_dim, float (*sums)[kMaxHeadDim]) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    V sum[kPcaTokens];
    for (size_t t = 0; t < kPcaTokens; ++t) {
      sum[t] = hn::LoadU(d, sums[t] + i);
    }
    for (size_t c = 0; c < chunk.num_components; ++c) {
      const auto row = hn::LoadU(d, chunk.basis[c] + i);
#pragma GCC unroll 8
      for (size_t t = 0; t < kPcaTokens; ++t) {
        sum[t] = hn::MulAdd(hn::Set(d, chunk.y[t][c]), row, sum[t]);
      }
    }
    for (size_t t = 0; t < kPcaTokens; ++t) {
      hn::StoreU(sum[t], d, sums[t] + i);
    }
  }
  for (; i < head_dim; ++i) {
    for (size_t c = 0; c < chunk.num_components; ++c) {
      for (size_t t = 0; t < kPcaTokens; ++t) {
        sums[t][i] += chunk.y[t][c] * chunk.basis[c][i];
      }
    }
  }
}

// One side of one kv head of up to kPcaTokens tokens. rows: of the first token.
void DecodeFew(const PcaSide& side,
               const PcaPlace& at,
               size_t kv_head,
               const std::byte* rows,
               size_t num_tokens,
               float* x) {
  alignas(64) float sums[kPcaTokens][kMaxHeadDim];
  for (auto& sum : sums) {
    std::copy_n(side.mean + kv_head * side.head_dim, side.head_dim, sum);
  }
  float scales[kPcaTokens];
  for (size_t t = 0; t < num_tokens; ++t) {
    scales[t] = PcaScale(static_cast<uint8_t>(rows[t * at.row_bytes + at.scale]));
  }
  PcaChunk chunk;
  size_t offset = at.codes;
  for (size_t group = 0; group < side.num_groups; ++group) {
    const size_t bits = PcaGroupBits(side, group);
    if (offset + bits > at.row_bytes) {
      break;
    }
    if (bits != 0) {
      const float* basis = side.basis + group * kPcaGroup * side.width() + kv_head * side.head_dim;
      for (size_t lane = 0; lane < kPcaGroup; ++lane) {
        chunk.basis[chunk.num_components + lane] = basis + lane * side.width();
      }
      for (size_t t = 0; t < num_tokens; ++t) {
        LoadGroup(rows + t * at.row_bytes + offset,
                  bits,
                  side.levels + PcaLevelsAt(bits),
                  scales[t],
                  chunk.y[t] + chunk.num_components);
      }
      chunk.num_components += kPcaGroup;
      offset += bits;
    }
    if (chunk.num_components == kPcaChunk * kPcaGroup) {
      AddChunk(chunk, side.head_dim, sums);
      chunk.num_components = 0;
    }
  }
  AddChunk(chunk, side.head_dim, sums);
  for (size_t t = 0; t < num_tokens; ++t) {
    std::copy_n(sums[t], side.head_dim, x + t * side.head_dim);
  }
}

void DecodeTokens(const PcaSide& side,
                  const PcaPlace& at,
                  size_t kv_head,
                  const std::byte* rows,
                  size_t num_tokens,
                  float* x) {
  for (size_t begin = 0; begin < num_tokens; begin += kPcaTokens) {
    DecodeFew(side,
              at,
              kv_head,
              rows + begin * at.row_bytes,
              std::min(kPcaTokens, num_tokens - begin),
              x + begin * side.head_dim);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(MultiplyInOrder);
HWY_EXPORT(DecodeTokens);

void PcaMultiply(const float* a,
                 size_t rows,
                 size_t depth,
                 const float* b,
                 size_t columns,
                 float* c) {
  HWY_DYNAMIC_DISPATCH(MultiplyInOrder)(a, rows, depth, b, columns, c);
}

void PcaDecode(const PcaSide& side,
               const PcaPlace& at,
               size_t kv_head,
               const std::byte* rows,
               size_t num_tokens,
               float* x) {
  HWY_DYNAMIC_DISPATCH(DecodeTokens)(side, at, kv_head, rows, num_tokens, x);
}

}  // namespace varve
#endif  // HWY_ONCE
