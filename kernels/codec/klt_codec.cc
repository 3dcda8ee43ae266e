// Codecs `klt4`, `klt3`, `klt2`. Bytes and meaning: klt_block.h; their tables: klt_calibration.cc.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/klt_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/f16_block.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/klt_block.h"
#include "kernels/codec/klt_calibration.h"
#include "kernels/codec/lloyd_max.h"
#include "kernels/codec/rot_rows.h"
#include "kernels/codec/row_block.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/group_codes-inl.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The scaled levels of one token; groups without bits are left alone.
HWY_INLINE void LoadKltToken(const std::byte* codes,
                             float scale,
                             const KltTables& tables,
                             size_t num_groups,
                             float* y) {
  for (size_t group = 0; group < num_groups; ++group) {
    const auto bits = static_cast<size_t>(tables.group_bits[group]);
    if (bits == 0) {
      continue;
    }
    LoadGroup(codes, bits, tables.levels + KltLevelsAt(bits), scale, y + group * kKltGroup);
    codes += bits;
  }
}

inline constexpr size_t kKltTokens = 4;

// x[t] = mean + sum over the dimensions that have bits of y[t][dim] * inverse[dim].
void MultiplyKlt(const KltTables& tables,
                 const float (*y)[kMaxHeadDim],
                 size_t num_tokens,
                 size_t head_dim,
                 size_t num_groups,
                 float* x) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    V sum[kKltTokens];
    for (V& s : sum) {
      s = hn::LoadU(d, tables.mean + i);
    }
    for (size_t group = 0; group < num_groups; ++group) {
      if (tables.group_bits[group] == 0.0F) {
        continue;
      }
      for (size_t dim = group * kKltGroup; dim < (group + 1) * kKltGroup; ++dim) {
        const auto row = hn::LoadU(d, tables.inverse + dim * head_dim + i);
#pragma GCC unroll 4
        for (size_t t = 0; t < kKltTokens; ++t) {
          sum[t] = hn::MulAdd(hn::Set(d, y[t][dim]), row, sum[t]);
        }
      }
    }
    for (size_t t = 0; t < num_tokens; ++t) {
      hn::StoreU(sum[t], d, x + t * head_dim + i);
    }
  }
  for (; i < head_dim; ++i) {
    for (size_t t = 0; t < num_tokens; ++t) {
      float sum = tables.mean[i];
      for (size_t dim = 0; dim < num_groups * kKltGroup; ++dim) {
        if (tables.group_bits[dim / kKltGroup] != 0.0F) {
          sum += y[t][dim] * tables.inverse[dim * head_dim + i];
        }
      }
      x[t * head_dim + i] = sum;
    }
  }
}

// codes: [num_tokens, row_bytes], scales: [num_tokens].
void KltDecodeKeys(const KltTables& tables,
                   const std::byte* codes,
                   const std::byte* scales,
                   size_t row_bytes,
                   size_t num_tokens,
                   size_t head_dim,
                   float* x) {
  const size_t num_groups = KltDims(head_dim) / kKltGroup;
  alignas(64) float y[kKltTokens][kMaxHeadDim] = {};
  for (size_t begin = 0; begin < num_tokens; begin += kKltTokens) {
    const size_t count = std::min(kKltTokens, num_tokens - begin);
    for (size_t t = 0; t < count; ++t) {
      uint16_t scale;
      std::memcpy(&scale, scales + (begin + t) * sizeof(scale), sizeof(scale));
      LoadKltToken(codes + (begin + t) * row_bytes, F16ToFloat(scale), tables, num_groups, y[t]);
    }
    MultiplyKlt(tables, y, count, head_dim, num_groups, x + begin * head_dim);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(KltDecodeKeys);

float TransformKltKey(const KltTables& tables, size_t head_dim, const float* k, float* y) {
  const size_t dims = KltDims(head_dim);
  double sums[kMaxHeadDim] = {};
  for (size_t i = 0; i < head_dim; ++i) {
    const double x = static_cast<double>(k[i]) - tables.mean[i];
    const float* row = tables.forward + i * dims;
    for (size_t dim = 0; dim < dims; ++dim) {
      sums[dim] += x * row[dim];
    }
  }
  double square = 0.0;
  size_t count = 0;
  for (size_t dim = 0; dim < dims; ++dim) {
    y[dim] = static_cast<float>(sums[dim]);
    if (tables.group_bits[dim / kKltGroup] != 0.0F && tables.weights[dim] != 0.0F) {
      square += sums[dim] * sums[dim];
      ++count;
    }
  }
  return count == 0 ? 0.0F : static_cast<float>(std::sqrt(square / static_cast<double>(count)));
}

namespace {

// One key; `codes` is zero.
void EncodeKltKey(const KltTables& tables,
                  size_t head_dim,
                  const float* k,
                  std::byte* codes,
                  uint16_t* scale) {
  float y[kMaxHeadDim];
  const float norm = TransformKltKey(tables, head_dim, k, y);
  *scale = 0;
  if (!(norm > 0.0F)) {
    return;
  }
  double product = 0.0;
  double square = 0.0;
  for (size_t group = 0; group < KltDims(head_dim) / kKltGroup; ++group) {
    const auto bits = static_cast<size_t>(tables.group_bits[group]);
    if (bits == 0) {
      continue;
    }
    for (size_t lane = 0; lane < kKltGroup; ++lane) {
      const size_t dim = group * kKltGroup + lane;
      const auto code = static_cast<uint32_t>(
          NearestLevel({tables.levels + KltLevelsAt(bits), size_t{1} << bits}, y[dim] / norm));
      for (size_t b = 0; b < bits; ++b) {
        SetBits(codes[b], (code >> b & 1U) << lane);
      }
      const double weight = static_cast<double>(tables.weights[dim]) * tables.weights[dim];
      const double level = tables.levels[KltLevelsAt(bits) + code];
      product += weight * y[dim] * level;
      square += weight * level * level;
    }
    codes += bits;
  }
  const double best = square > 0.0 ? product / square : 0.0;
  *scale = FloatToF16(std::min(static_cast<float>(std::max(best, 0.0)), kF16Largest));
}

class KltCodec final : public HeadCodec {
 public:
  KltCodec(CodecId id, std::string_view name, size_t bits) : id_(id), name_(name), bits_(bits) {}

  CodecId id() const override { return id_; }
  std::string_view name() const override { return name_; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateKlt(sample, bits_);
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return KltTableFloats(num_kv_heads, head_dim);
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return token_capacity * (KltRowBytes(bits_, head_dim) + sizeof(uint16_t));
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return token_capacity * (PackedBytes(bits_, head_dim) + sizeof(uint16_t));
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    const size_t row_bytes = KltRowBytes(bits_, block.head_dim);
    for (size_t t = 0; t < num_tokens; ++t) {
      uint16_t scale;
      EncodeKltKey(
          TablesOf(block), block.head_dim, x + t * block.head_dim, out + t * row_bytes, &scale);
      std::memcpy(
          out + block.token_capacity * row_bytes + t * sizeof(scale), &scale, sizeof(scale));
    }
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    const size_t row_bytes = PackedBytes(bits_, block.head_dim);
    for (size_t t = 0; t < num_tokens; ++t) {
      uint16_t scale;
      EncodeRotRow(bits_, x + t * block.head_dim, block.head_dim, out + t * row_bytes, &scale);
      std::memcpy(
          out + block.token_capacity * row_bytes + t * sizeof(scale), &scale, sizeof(scale));
    }
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    const size_t row_bytes = KltRowBytes(bits_, block.head_dim);
    HWY_DYNAMIC_DISPATCH(KltDecodeKeys)
    (TablesOf(block),
     encoded + first_token * row_bytes,
     encoded + block.token_capacity * row_bytes + first_token * sizeof(uint16_t),
     row_bytes,
     num_tokens,
     block.head_dim,
     x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    const size_t row_bytes = PackedBytes(bits_, block.head_dim);
    for (size_t t = 0; t < num_tokens; ++t) {
      uint16_t scale;
      std::memcpy(&scale,
                  encoded + block.token_capacity * row_bytes + (first_token + t) * sizeof(scale),
                  sizeof(scale));
      DecodeRotRow(bits_,
                   encoded + (first_token + t) * row_bytes,
                   scale,
                   block.head_dim,
                   x + t * block.head_dim);
    }
  }

 private:
  static KltTables TablesOf(const Block& block) {
    return KltTablesOf(block.tables->values.data(), block.kv_head, block.head_dim);
  }

  CodecId id_;
  std::string_view name_;
  size_t bits_;
};

}  // namespace

const Codec* Klt4Codec() {
  static const KltCodec kCodec(CodecId::kKlt4, "klt4", 4);
  return &kCodec;
}
const Codec* Klt3Codec() {
  static const KltCodec kCodec(CodecId::kKlt3, "klt3", 3);
  return &kCodec;
}
const Codec* Klt2Codec() {
  static const KltCodec kCodec(CodecId::kKlt2, "klt2", 2);
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
