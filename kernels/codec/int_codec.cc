// Codecs `int4`, `int3`, `int2`: equal steps between the smallest and the largest value of each
// token and head. Bytes and meaning: int_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/int_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>

#include "kernels/codec/codecs.h"
#include "kernels/codec/int_block.h"
#include "kernels/codec/int_rows.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/codec/row_codec.h"
#include "kernels/cpu/packed-inl.h"
#include "kernels/cpu/sanitize-inl.h"
#include "kernels/cpu/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void IntEncodeRow(size_t bits,
                  const float* x,
                  size_t head_dim,
                  std::byte* packed,
                  uint16_t* params) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  auto smallest_lanes = hn::Set(d, kF16Largest);
  auto largest_lanes = hn::Set(d, -kF16Largest);
  size_t i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    const auto value = LoadSanitized(d, x + i, kF16Largest);
    smallest_lanes = hn::Min(smallest_lanes, value);
    largest_lanes = hn::Max(largest_lanes, value);
  }
  float smallest = hn::GetLane(hn::MinOfLanes(d, smallest_lanes));
  float largest = hn::GetLane(hn::MaxOfLanes(d, largest_lanes));
  for (; i < head_dim; ++i) {
    smallest = std::min(smallest, F16Sanitize(x[i]));
    largest = std::max(largest, F16Sanitize(x[i]));
  }
  params[kIntOffset] = FloatToF16(smallest + 0.0F);  // -0 would be other bytes
  const float offset = F16ToFloat(params[kIntOffset]);
  params[kIntScale] = IntScale(bits, largest, offset);
  const float scale = F16ToFloat(params[kIntScale]);
  if (scale == 0.0F) {
    return;
  }
  RowCodes row{};
  const auto highest = hn::Set(d, static_cast<float>((1U << bits) - 1));
  for (i = 0; i + lanes <= head_dim; i += lanes) {
    const auto steps = hn::Div(hn::Sub(LoadSanitized(d, x + i, kF16Largest), hn::Set(d, offset)),
                               hn::Set(d, scale));
    const auto code = hn::NearestInt(hn::Min(hn::Max(steps, hn::Zero(d)), highest));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(d32, code)), d8, row.codes + i);
  }
  for (; i < head_dim; ++i) {
    row.codes[i] = static_cast<uint8_t>(IntCode(bits, x[i], scale, offset));
  }
  PackRow(row, bits, head_dim, packed);
}

template <size_t kBits>
void IntDecodeRowsOf(const std::byte* codes,
                     const std::byte* scales,
                     const std::byte* offsets,
                     size_t num_rows,
                     size_t count,
                     size_t stride,
                     float* out) {
  const hn::CappedTag<float, 8> d;
  const size_t row_bytes = PackedBytes(kBits, count);
  for (size_t r = 0; r < num_rows; ++r, codes += row_bytes, out += stride) {
    const float scale = LoadWideScalar<DType::kF16>(scales + r * sizeof(uint16_t));
    const float offset = LoadWideScalar<DType::kF16>(offsets + r * sizeof(uint16_t));
    size_t i = 0;
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
      const auto code = hn::ConvertTo(d, LoadCodes<kBits>(d, codes, i, count));
      hn::StoreU(hn::Add(hn::Mul(code, hn::Set(d, scale)), hn::Set(d, offset)), d, out + i);
    }
    for (; i < count; ++i) {
      out[i] = IntDecode(UnpackCode(codes, kBits, count, i), scale, offset);
    }
  }
}

void IntDecodeRows(size_t bits,
                   const std::byte* codes,
                   const std::byte* scales,
                   const std::byte* offsets,
                   size_t num_rows,
                   size_t count,
                   size_t stride,
                   float* out) {
  const auto decode = bits == 8   ? IntDecodeRowsOf<8>
                      : bits == 4 ? IntDecodeRowsOf<4>
                      : bits == 3 ? IntDecodeRowsOf<3>
                                  : IntDecodeRowsOf<2>;
  decode(codes, scales, offsets, num_rows, count, stride, out);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(IntEncodeRow);
HWY_EXPORT(IntDecodeRows);

void EncodeIntRow(size_t bits, const float* x, size_t count, std::byte* packed, uint16_t* params) {
  HWY_DYNAMIC_DISPATCH(IntEncodeRow)(bits, x, count, packed, params);
}

void DecodeIntRows(size_t bits,
                   const std::byte* codes,
                   const std::byte* scales,
                   const std::byte* offsets,
                   size_t num_rows,
                   size_t count,
                   size_t stride,
                   float* out) {
  HWY_DYNAMIC_DISPATCH(IntDecodeRows)
  (bits, codes, scales, offsets, num_rows, count, stride, out);
}

namespace {

class IntCodec final : public RowCodec {
 public:
  IntCodec(CodecId id, std::string_view name, size_t bits) : id_(id), name_(name), bits_(bits) {}

  CodecId id() const override { return id_; }
  std::string_view name() const override { return name_; }

 protected:
  RowFormat Format(size_t head_dim) const override { return IntFormat(bits_, head_dim); }
  void EncodeRow(const float* x,
                 size_t head_dim,
                 std::byte* codes,
                 uint16_t* params) const override {
    EncodeIntRow(bits_, x, head_dim, codes, params);
  }
  void DecodeRow(const std::byte* codes,
                 const uint16_t* params,
                 size_t head_dim,
                 float* out) const override {
    RowCodes row;
    UnpackRow(codes, bits_, head_dim, &row);
    const float scale = F16ToFloat(params[kIntScale]);
    const float offset = F16ToFloat(params[kIntOffset]);
    for (size_t i = 0; i < head_dim; ++i) {
      out[i] = IntDecode(row.codes[i], scale, offset);
    }
  }

 private:
  CodecId id_;
  std::string_view name_;
  size_t bits_;
};

}  // namespace

const Codec* Int4Codec() {
  static const IntCodec kCodec(CodecId::kInt4, "int4", 4);
  return &kCodec;
}
const Codec* Int3Codec() {
  static const IntCodec kCodec(CodecId::kInt3, "int3", 3);
  return &kCodec;
}
const Codec* Int2Codec() {
  static const IntCodec kCodec(CodecId::kInt2, "int2", 2);
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
