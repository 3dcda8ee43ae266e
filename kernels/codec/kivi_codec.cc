// Codecs `kivi4`, `kivi2`, `kivi4g32`, `kivi2g32`. Bytes and meaning: kivi_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/kivi_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/kivi_block.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/cpu/packed-inl.h"
#include "kernels/cpu/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Scales and offsets of up to kMaxHeadDim channels, as stored and as floats.
struct KiviParams {
  alignas(64) float scales[kMaxHeadDim];
  alignas(64) float offsets[kMaxHeadDim];
  uint16_t stored_scales[kMaxHeadDim];
  uint16_t stored_offsets[kMaxHeadDim];

  void Set(size_t i, size_t bits, float smallest, float largest) {
    stored_offsets[i] = FloatToF16(smallest + 0.0F);  // -0 would be other bytes
    offsets[i] = F16ToFloat(stored_offsets[i]);
    stored_scales[i] = IntScale(bits, largest, offsets[i]);
    scales[i] = F16ToFloat(stored_scales[i]);
  }
};

// Codes of values [begin, end) of a row, whose params stand at the same index.
void KiviCodes(size_t bits,
               const float* x,
               const KiviParams& params,
               size_t begin,
               size_t end,
               RowCodes* row) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const auto highest = hn::Set(d, static_cast<float>((1U << bits) - 1));
  size_t i = begin;
  for (; i + hn::Lanes(d) <= end; i += hn::Lanes(d)) {
    const auto scale = hn::LoadU(d, params.scales + i);
    const auto is_flat = hn::Eq(scale, hn::Zero(d));
    const auto steps = hn::Div(hn::Sub(hn::LoadU(d, x + i), hn::LoadU(d, params.offsets + i)),
                               hn::IfThenElse(is_flat, hn::Set(d, 1.0F), scale));
    const auto within = hn::Min(hn::Max(steps, hn::Zero(d)), highest);
    const auto code = hn::NearestInt(hn::IfThenZeroElse(is_flat, within));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(d32, code)), d8, row->codes + i);
  }
  for (; i < end; ++i) {
    row->codes[i] = static_cast<uint8_t>(IntCode(bits, x[i], params.scales[i], params.offsets[i]));
  }
}

// Smallest and largest of each channel over the rows of x, [tokens, head_dim].
void ChannelRanges(const float* x,
                   size_t tokens,
                   size_t head_dim,
                   float* smallest,
                   float* largest) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    auto low = hn::LoadU(d, x + i);
    auto high = low;
    for (size_t t = 1; t < tokens; ++t) {
      const auto value = hn::LoadU(d, x + t * head_dim + i);
      low = hn::Min(low, value);
      high = hn::Max(high, value);
    }
    hn::StoreU(low, d, smallest + i);
    hn::StoreU(high, d, largest + i);
  }
  for (; i < head_dim; ++i) {
    smallest[i] = largest[i] = x[i];
    for (size_t t = 1; t < tokens; ++t) {
      smallest[i] = std::min(smallest[i], x[t * head_dim + i]);
      largest[i] = std::max(largest[i], x[t * head_dim + i]);
    }
  }
}

void KiviEncodeKeys(size_t bits,
                    size_t group,
                    size_t head_dim,
                    size_t token_capacity,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) {
  const KiviLayout at = KiviKeyLayout(bits, group, head_dim, token_capacity);
  KiviParams params;
  float smallest[kMaxHeadDim];
  float largest[kMaxHeadDim];
  for (size_t begin = 0; begin < num_tokens; begin += group) {
    const size_t end = std::min(begin + group, num_tokens);
    ChannelRanges(x + begin * head_dim, end - begin, head_dim, smallest, largest);
    for (size_t i = 0; i < head_dim; ++i) {
      params.Set(i, bits, smallest[i], largest[i]);
    }
    const size_t row = begin / group * head_dim * sizeof(uint16_t);
    std::memcpy(out + at.scales + row, params.stored_scales, head_dim * sizeof(uint16_t));
    std::memcpy(out + at.offsets + row, params.stored_offsets, head_dim * sizeof(uint16_t));
    for (size_t t = begin; t < end; ++t) {
      RowCodes codes{};
      KiviCodes(bits, x + t * head_dim, params, 0, head_dim, &codes);
      PackRow(codes, bits, head_dim, out + t * at.row_bytes);
    }
  }
}

// Smallest and largest of x[0, count), count > 0.
void RowRange(const float* x, size_t count, float* smallest, float* largest) {
  const hn::ScalableTag<float> d;
  auto low = hn::Set(d, x[0]);
  auto high = low;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    const auto value = hn::LoadU(d, x + i);
    low = hn::Min(low, value);
    high = hn::Max(high, value);
  }
  *smallest = hn::GetLane(hn::MinOfLanes(d, low));
  *largest = hn::GetLane(hn::MaxOfLanes(d, high));
  for (; i < count; ++i) {
    *smallest = std::min(*smallest, x[i]);
    *largest = std::max(*largest, x[i]);
  }
}

void KiviEncodeValues(size_t bits,
                      size_t group,
                      size_t head_dim,
                      size_t token_capacity,
                      size_t num_tokens,
                      const float* x,
                      std::byte* out) {
  const KiviLayout at = KiviValueLayout(bits, group, head_dim, token_capacity);
  const size_t groups = KiviGroups(head_dim, group);
  KiviParams params;
  for (size_t t = 0; t < num_tokens; ++t) {
    RowCodes codes{};
    const float* row = x + t * head_dim;
    for (size_t begin = 0; begin < head_dim; begin += group) {
      const size_t end = std::min(begin + group, head_dim);
      float smallest;
      float largest;
      RowRange(row + begin, end - begin, &smallest, &largest);
      params.Set(begin, bits, smallest, largest);
      std::fill(params.scales + begin, params.scales + end, params.scales[begin]);
      std::fill(params.offsets + begin, params.offsets + end, params.offsets[begin]);
      const size_t place = (t * groups + begin / group) * sizeof(uint16_t);
      std::memcpy(out + at.scales + place, params.stored_scales + begin, sizeof(uint16_t));
      std::memcpy(out + at.offsets + place, params.stored_offsets + begin, sizeof(uint16_t));
      KiviCodes(bits, row, params, begin, end, &codes);
    }
    PackRow(codes, bits, head_dim, out + t * at.row_bytes);
  }
}

// Values [begin, end) of a packed row; scale(d, i) and offset(d, i) give those of vectors.
template <size_t kBits, class Param>
HWY_INLINE void KiviDecodeRow(const std::byte* row,
                              size_t head_dim,
                              size_t begin,
                              size_t end,
                              const Param& scale,
                              const Param& offset,
                              float* out) {
  const hn::CappedTag<float, 8> d;
  size_t i = begin;
  for (; i + hn::Lanes(d) <= end; i += hn::Lanes(d)) {
    const auto code = hn::ConvertTo(d, LoadCodes<kBits>(d, row, i, head_dim));
    hn::StoreU(hn::Add(hn::Mul(code, scale.Load(d, i)), offset.Load(d, i)), d, out + i);
  }
  for (; i < end; ++i) {
    out[i] = IntDecode(UnpackCode(row, kBits, head_dim, i), scale.At(i), offset.At(i));
  }
}

// One number for each channel.
struct EachChannel {
  const float* values;
  template <class D>
  HWY_INLINE hn::Vec<D> Load(D d, size_t i) const {
    return hn::LoadU(d, values + i);
  }
  float At(size_t i) const { return values[i]; }
};

// One number for all.
struct OneForAll {
  float value;
  template <class D>
  HWY_INLINE hn::Vec<D> Load(D d, size_t /*i*/) const {
    return hn::Set(d, value);
  }
  float At(size_t /*i*/) const { return value; }
};

template <size_t kBits>
void KiviDecodeKeysOf(const KiviLayout& at,
                      size_t group,
                      size_t head_dim,
                      const std::byte* encoded,
                      size_t first_token,
                      size_t num_tokens,
                      float* out) {
  float scales[kMaxHeadDim];
  float offsets[kMaxHeadDim];
  for (size_t t = first_token; t < first_token + num_tokens; ++t) {
    if (t == first_token || t % group == 0) {
      const size_t row = t / group * head_dim * sizeof(uint16_t);
      WidenRow<DType::kF16>(encoded + at.scales + row, head_dim, scales);
      WidenRow<DType::kF16>(encoded + at.offsets + row, head_dim, offsets);
    }
    KiviDecodeRow<kBits>(encoded + t * at.row_bytes,
                         head_dim,
                         0,
                         head_dim,
                         EachChannel{scales},
                         EachChannel{offsets},
                         out + (t - first_token) * head_dim);
  }
}

template <size_t kBits>
void KiviDecodeValuesOf(const KiviLayout& at,
                        size_t group,
                        size_t head_dim,
                        const std::byte* encoded,
                        size_t first_token,
                        size_t num_tokens,
                        float* out) {
  const size_t groups = KiviGroups(head_dim, group);
  for (size_t t = first_token; t < first_token + num_tokens; ++t) {
    for (size_t begin = 0; begin < head_dim; begin += group) {
      const size_t place = (t * groups + begin / group) * sizeof(uint16_t);
      const OneForAll scale{LoadWideScalar<DType::kF16>(encoded + at.scales + place)};
      const OneForAll offset{LoadWideScalar<DType::kF16>(encoded + at.offsets + place)};
      KiviDecodeRow<kBits>(encoded + t * at.row_bytes,
                           head_dim,
                           begin,
                           std::min(begin + group, head_dim),
                           scale,
                           offset,
                           out + (t - first_token) * head_dim);
    }
  }
}

void KiviDecodeKeys(size_t bits,
                    const KiviLayout& at,
                    size_t group,
                    size_t head_dim,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* out) {
  const auto decode = bits == 4 ? KiviDecodeKeysOf<4> : KiviDecodeKeysOf<2>;
  decode(at, group, head_dim, encoded, first_token, num_tokens, out);
}

void KiviDecodeValues(size_t bits,
                      const KiviLayout& at,
                      size_t group,
                      size_t head_dim,
                      const std::byte* encoded,
                      size_t first_token,
                      size_t num_tokens,
                      float* out) {
  const auto decode = bits == 4 ? KiviDecodeValuesOf<4> : KiviDecodeValuesOf<2>;
  decode(at, group, head_dim, encoded, first_token, num_tokens, out);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(KiviEncodeKeys);
HWY_EXPORT(KiviEncodeValues);
HWY_EXPORT(KiviDecodeKeys);
HWY_EXPORT(KiviDecodeValues);

class KiviCodec final : public HeadCodec {
 public:
  KiviCodec(CodecId id, std::string_view name, size_t bits, size_t group)
      : id_(id), name_(name), bits_(bits), group_(group) {}

  CodecId id() const override { return id_; }
  std::string_view name() const override { return name_; }

 protected:
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return KiviKeyLayout(bits_, group_, head_dim, token_capacity).bytes;
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return KiviValueLayout(bits_, group_, head_dim, token_capacity).bytes;
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    HWY_DYNAMIC_DISPATCH(KiviEncodeKeys)
    (bits_, group_, block.head_dim, block.token_capacity, num_tokens, x, out);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    HWY_DYNAMIC_DISPATCH(KiviEncodeValues)
    (bits_, group_, block.head_dim, block.token_capacity, num_tokens, x, out);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    const KiviLayout at = KiviKeyLayout(bits_, group_, block.head_dim, block.token_capacity);
    HWY_DYNAMIC_DISPATCH(KiviDecodeKeys)
    (bits_, at, group_, block.head_dim, encoded, first_token, num_tokens, x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    const KiviLayout at = KiviValueLayout(bits_, group_, block.head_dim, block.token_capacity);
    HWY_DYNAMIC_DISPATCH(KiviDecodeValues)
    (bits_, at, group_, block.head_dim, encoded, first_token, num_tokens, x);
  }

 private:
  CodecId id_;
  std::string_view name_;
  size_t bits_;
  size_t group_;
};

}  // namespace

const Codec* Kivi4Codec() {
  static const KiviCodec kCodec(CodecId::kKivi4, "kivi4", 4, 64);
  return &kCodec;
}
const Codec* Kivi2Codec() {
  static const KiviCodec kCodec(CodecId::kKivi2, "kivi2", 2, 64);
  return &kCodec;
}
const Codec* Kivi4G32Codec() {
  static const KiviCodec kCodec(CodecId::kKivi4G32, "kivi4g32", 4, 32);
  return &kCodec;
}
const Codec* Kivi2G32Codec() {
  static const KiviCodec kCodec(CodecId::kKivi2G32, "kivi2g32", 2, 32);
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
