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

inline constexpr size_t kPcaTokens = 8;  // share each row of the basis in registers

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

HWY_EXPORT(DecodeTokens);

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
