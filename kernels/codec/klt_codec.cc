// Codecs `klt4`, `klt3`, `klt2`. Bytes and meaning: klt_block.h; their tables: klt_calibration.cc.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/f16_block.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/klt_block.h"
#include "kernels/codec/klt_calibration.h"
#include "kernels/codec/klt_decode.h"
#include "kernels/codec/lloyd_max.h"
#include "kernels/codec/rot_rows.h"
#include "kernels/codec/row_block.h"
#include "kernels/cpu/attend_plan.h"

namespace varve {

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
  uint16_t version() const override { return 2; }  // values as in version 2 of rot
  std::string_view name() const override { return name_; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateKlt(sample, bits_);
  }
  bool values_rotated() const override { return true; }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return KltTableFloats(num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t num_kv_heads,
                      size_t head_dim) const override {
    for (size_t head = 0; head < num_kv_heads; ++head) {
      const KltTables tables = KltTablesOf(values.data(), head, head_dim);
      size_t row_bytes = 0;
      for (size_t group = 0; group < KltDims(head_dim) / kKltGroup; ++group) {
        const float bits = tables.group_bits[group];
        if (!(bits >= 0.0F && bits <= kKltMaxBits && bits == std::floor(bits))) {
          return false;
        }
        row_bytes += static_cast<size_t>(bits);
      }
      if (row_bytes != KltRowBytes(bits_, head_dim)) {
        return false;
      }
    }
    return true;
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
    DecodeKltKeys(TablesOf(block),
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
    DecodeRotRows(bits_,
                  encoded + first_token * row_bytes,
                  encoded + block.token_capacity * row_bytes + first_token * sizeof(uint16_t),
                  num_tokens,
                  block.head_dim,
                  x);
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
