// Codecs `rot4`, `rot3`, `rot2`: rotated rows, Lloyd-Max levels. Bytes and meaning: rot_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/rot_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/codec/rot_rows.h"
#include "kernels/codec/row_codec.h"
#include "kernels/cpu/rot_codes-inl.h"
#include "kernels/cpu/rotate-inl.h"
#include "kernels/cpu/sanitize-inl.h"

#ifndef VARVE_KERNELS_CODEC_ROT_CODEC_ONCE_
#define VARVE_KERNELS_CODEC_ROT_CODEC_ONCE_
namespace varve {

// Sums are held in as many parts as the widest vector has lanes, on every target, and added up in
// one order.
inline constexpr size_t kSumParts = 16;

struct RotRow {
  alignas(64) float values[RowCodes::kSize];  // zero from head_dim on
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline float AddParts(const float* parts) {
  float sum = 0.0F;
  for (size_t i = 0; i < kSumParts; ++i) {
    sum += parts[i];
  }
  return sum;
}

void LoadRotated(const float* x, size_t head_dim, RotRow* row) {
  const hn::CappedTag<float, 8> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    hn::Store(LoadSanitized(d, x + i, kF16Largest), d, row->values + i);
  }
  for (; i < head_dim; ++i) {
    row->values[i] = F16Sanitize(x[i]);
  }
  std::fill(row->values + head_dim, row->values + RowCodes::kSize, 0.0F);
  RotateRow(row->values, head_dim);
}

// Sums of as many parts as kSumParts, in registers.
inline constexpr size_t kPartVectors = kSumParts / hn::MaxLanes(hn::ScalableTag<float>());
struct PartSums {
  using Tag = hn::ScalableTag<float>;
  PartSums() {
#pragma GCC unroll 4
    for (size_t i = 0; i < kPartVectors; ++i) {
      vectors[i] = hn::Zero(Tag());
    }
  }
  float Total() const {
    alignas(64) float parts[kSumParts];
    for (size_t i = 0; i < kPartVectors; ++i) {
      hn::Store(vectors[i], Tag(), parts + i * hn::Lanes(Tag()));
    }
    return AddParts(parts);
  }

  hn::Vec<Tag> vectors[kPartVectors];
};

float Deviation(const RotRow& row, size_t head_dim) {
  const hn::ScalableTag<float> d;
  PartSums squares;
  for (size_t i = 0; i < head_dim; i += kSumParts) {
#pragma GCC unroll 4
    for (size_t part = 0; part < kPartVectors; ++part) {
      const auto y = hn::Load(d, row.values + i + part * hn::Lanes(d));
      squares.vectors[part] = hn::Add(squares.vectors[part], hn::Mul(y, y));
    }
  }
  return std::sqrt(squares.Total() / static_cast<float>(head_dim));
}

// Codes of the row, and the scale that fits their levels best.
template <size_t kBits>
float QuantizeRow(const RotRow& row, size_t head_dim, float sigma, RowCodes* codes) {
  constexpr size_t kLevels = size_t{1} << (kBits - 1);
  constexpr const RotTable& kTable = RotTableOf(kBits);
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  PartSums products;
  PartSums squares;
  for (size_t i = 0; i < head_dim; i += kSumParts) {
#pragma GCC unroll 4
    for (size_t part = 0; part < kPartVectors; ++part) {
      const size_t at = i + part * lanes;
      const auto y = hn::Load(d, row.values + at);
      const auto magnitude = hn::Abs(y);
      auto level = hn::Set(d, RotLevel(kBits, 0));
      auto code = hn::Zero(d32);
      for (size_t j = 0; j + 1 < kLevels; ++j) {
        const auto above = hn::Gt(magnitude, hn::Set(d, kTable.thresholds[j] * sigma));
        level =
            hn::IfThenElse(above, hn::Set(d, RotLevel(kBits, static_cast<uint32_t>(j + 1))), level);
        // A mask is -1.
        code = hn::Sub(code, hn::BitCast(d32, hn::VecFromMask(d, above)));
      }
      const auto negative = hn::BitCast(d32, hn::VecFromMask(d, hn::Lt(y, hn::Zero(d))));
      code = hn::Or(code, hn::And(negative, hn::Set(d32, static_cast<int32_t>(kLevels))));
      hn::StoreU(hn::DemoteTo(d8, code), d8, codes->codes + at);
      if (at + lanes > head_dim) {
        // Dimensions beyond head_dim have y = 0 but a level: they must not count.
        const auto counts = hn::Lt(hn::Iota(d32, static_cast<int32_t>(at)),
                                   hn::Set(d32, static_cast<int32_t>(head_dim)));
        level = hn::And(level, hn::BitCast(d, hn::VecFromMask(d32, counts)));
      }
      products.vectors[part] = hn::Add(products.vectors[part], hn::Mul(magnitude, level));
      squares.vectors[part] = hn::Add(squares.vectors[part], hn::Mul(level, level));
    }
  }
  std::fill(codes->codes + head_dim, codes->codes + RowCodes::kSize, uint8_t{0});
  return products.Total() / squares.Total();
}

template <size_t kBits>
void RotEncodeBits(const float* x, size_t head_dim, std::byte* packed, uint16_t* params) {
  RotRow row;
  RowCodes codes;
  LoadRotated(x, head_dim, &row);
  const float sigma = Deviation(row, head_dim);
  params[0] = 0;
  if (sigma > 0.0F) {
    const float scale = QuantizeRow<kBits>(row, head_dim, sigma, &codes);
    params[0] = FloatToF16(std::min(scale, kF16Largest));
    PackRow(codes, kBits, head_dim, packed);
  }
}

void RotEncodeRow(size_t bits,
                  const float* x,
                  size_t head_dim,
                  std::byte* packed,
                  uint16_t* params) {
  switch (bits) {
    case 4:
      RotEncodeBits<4>(x, head_dim, packed, params);
      break;
    case 3:
      RotEncodeBits<3>(x, head_dim, packed, params);
      break;
    default:
      RotEncodeBits<2>(x, head_dim, packed, params);
      break;
  }
}

template <size_t kBits>
void RotDecodeBits(const std::byte* packed, float scale, size_t head_dim, float* out) {
  const hn::CappedTag<float, 8> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    const auto level = RotCodes<kBits>::Load(d, packed, i, head_dim);
    hn::StoreU(hn::Mul(hn::Set(d, scale), level), d, out + i);
  }
  for (; i < head_dim; ++i) {
    out[i] = scale * RotCodes<kBits>::LoadScalar(packed, i, head_dim);
  }
  UnrotateRow(out, head_dim);
}

void RotDecodeRow(size_t bits, const std::byte* packed, float scale, size_t head_dim, float* out) {
  const auto decode = bits == 4   ? RotDecodeBits<4>
                      : bits == 3 ? RotDecodeBits<3>
                                  : RotDecodeBits<2>;
  decode(packed, scale, head_dim, out);
}

void RotRotateRows(size_t num_rows, size_t head_dim, float* x) {
  for (size_t row = 0; row < num_rows; ++row) {
    RotateRow(x + row * head_dim, head_dim);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(RotEncodeRow);
HWY_EXPORT(RotDecodeRow);
HWY_EXPORT(RotRotateRows);

void RotateRows(size_t num_rows, size_t head_dim, float* x) {
  HWY_DYNAMIC_DISPATCH(RotRotateRows)(num_rows, head_dim, x);
}

namespace {

class RotCodec final : public RowCodec {
 public:
  RotCodec(CodecId id, std::string_view name, size_t bits) : id_(id), name_(name), bits_(bits) {}

  CodecId id() const override { return id_; }
  uint16_t version() const override { return 2; }  // 1 had levels that were no multiples of a step
  std::string_view name() const override { return name_; }

 protected:
  RowFormat Format(size_t head_dim) const override { return RotFormat(bits_, head_dim); }
  void EncodeRow(const float* x,
                 size_t head_dim,
                 std::byte* codes,
                 uint16_t* params) const override {
    HWY_DYNAMIC_DISPATCH(RotEncodeRow)(bits_, x, head_dim, codes, params);
  }
  void DecodeRow(const std::byte* codes,
                 const uint16_t* params,
                 size_t head_dim,
                 float* out) const override {
    HWY_DYNAMIC_DISPATCH(RotDecodeRow)(bits_, codes, F16ToFloat(*params), head_dim, out);
  }

 private:
  CodecId id_;
  std::string_view name_;
  size_t bits_;
};

}  // namespace

const Codec* Rot4Codec() {
  static const RotCodec kCodec(CodecId::kRot4, "rot4", 4);
  return &kCodec;
}
const Codec* Rot3Codec() {
  static const RotCodec kCodec(CodecId::kRot3, "rot3", 3);
  return &kCodec;
}
const Codec* Rot2Codec() {
  static const RotCodec kCodec(CodecId::kRot2, "rot2", 2);
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
