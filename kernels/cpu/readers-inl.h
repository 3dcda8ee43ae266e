// Readers: the rows of one kv head of an encoded run in vector registers, per target. Key and Value
// load Lanes(d) numbers of token `token` from dimension `i` on; the number meant is
//   loaded * scale of the token (kScaled) + offset of the token (kHasOffset),
// in rotated coordinates if keys_rotated or values_rotated. The bytes need no alignment. Prepare
// comes before the tokens of a tile are loaded. Codes of at most 8 bits (kIsCode) are loaded as
// kCentre + kStep * an integer of magnitude <= 127.
#if defined(VARVE_KERNELS_CPU_READERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_READERS_INL_H_
#undef VARVE_KERNELS_CPU_READERS_INL_H_
#else
#define VARVE_KERNELS_CPU_READERS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "kernels/attend.h"
#include "kernels/codec/exact_block.h"
#include "kernels/codec/fp8_block.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/int_block.h"
#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/packed-inl.h"
#include "kernels/cpu/rot_codes-inl.h"
#include "kernels/cpu/widen-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <DType kDType>
class ExactReader {
 public:
  static constexpr bool kInteger = false;
  static constexpr bool kIsCode = false;
  static constexpr bool kScaled = false;
  static constexpr bool kHasOffset = false;
  static constexpr bool kRotated = false;

  ExactReader(const KvView& view, size_t kv_head, size_t head_dim)
      : keys_(view.encoded.data() +
              ExactKeyOffset(kv_head, view.token_capacity, head_dim) * kStoredBytes<kDType>),
        values_(view.encoded.data() +
                ExactValueOffset(kv_head, view.token_capacity, head_dim) * kStoredBytes<kDType>),
        row_bytes_(head_dim * kStoredBytes<kDType>) {}

  static constexpr bool has_offset() { return kHasOffset; }
  static constexpr bool keys_rotated() { return kRotated; }
  static constexpr bool values_rotated() { return kRotated; }
  void Prepare(size_t /*first_token*/, size_t /*num_tokens*/) const {}

  template <class D>
  HWY_INLINE hn::Vec<D> Key(D d, size_t token, size_t i) const {
    return LoadWide<kDType>(d, keys_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  template <class D>
  HWY_INLINE hn::Vec<D> Value(D d, size_t token, size_t i) const {
    return LoadWide<kDType>(d, values_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  float KeyScalar(size_t token, size_t i) const {
    return LoadWideScalar<kDType>(keys_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  float ValueScalar(size_t token, size_t i) const {
    return LoadWideScalar<kDType>(values_ + token * row_bytes_ + i * kStoredBytes<kDType>);
  }
  float KeyScale(size_t /*token*/) const { return 1.0F; }
  float ValueScale(size_t /*token*/) const { return 1.0F; }
  float KeyOffset(size_t /*token*/) const { return 0.0F; }
  float ValueOffset(size_t /*token*/) const { return 0.0F; }

 private:
  const std::byte* keys_;
  const std::byte* values_;
  size_t row_bytes_;
};

// What the codes of each codec mean, without scale and offset.
struct Int8Codes {
  static constexpr bool kIsCode = true;
  static constexpr float kStep = 1.0F;
  static constexpr float kCentre = 0.0F;
  static constexpr bool kHasOffset = false;
  static constexpr bool kRotated = false;
  static RowFormat Format(size_t head_dim) { return Int8Format(head_dim); }
  static float Param(uint16_t bits) { return Bf16ToFloat(bits); }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i, size_t /*head_dim*/) {
    const hn::Rebind<int8_t, D> d8;
    const hn::RebindToSigned<D> d32;
    const auto code = hn::LoadU(d8, reinterpret_cast<const int8_t*>(row + i));
    return hn::ConvertTo(d, hn::PromoteTo(d32, code));
  }
  static float LoadScalar(const std::byte* row, size_t i, size_t /*head_dim*/) {
    return static_cast<int8_t>(row[i]);
  }
};

struct Fp8Codes {
  static constexpr bool kIsCode = false;
  static constexpr float kStep = 1.0F;
  static constexpr float kCentre = 0.0F;
  static constexpr bool kHasOffset = false;
  static constexpr bool kRotated = false;
  static RowFormat Format(size_t head_dim) { return Fp8Format(head_dim); }
  // What is loaded is 2^-120 of what is meant: exponents of four bits, unchanged, among those of
  // eight.
  static constexpr float kFactor = 0x1p120F;
  static float Param(uint16_t bits) { return kFactor * F16ToFloat(bits); }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i, size_t /*head_dim*/) {
    const hn::Rebind<int8_t, D> d8;
    const hn::RebindToSigned<D> d32;
    // Magnitudes become the upper bits of one; of the copies of the sign above them one is wanted.
    const auto code = hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const int8_t*>(row + i)));
    const auto bits =
        hn::And(hn::ShiftLeft<20>(code), hn::Set(d32, static_cast<int32_t>(0x87ffffff)));
    return hn::BitCast(d, bits);
  }
  static float LoadScalar(const std::byte* row, size_t i, size_t /*head_dim*/) {
    return Fp8ToFloat(static_cast<uint8_t>(row[i])) / kFactor;
  }
};

template <size_t kBits>
struct IntCodes {
  static constexpr bool kIsCode = true;
  static constexpr float kStep = 0.5F;
  static constexpr float kCentre = static_cast<float>((1 << kBits) - 1) / 2.0F;
  static constexpr bool kHasOffset = true;
  static constexpr bool kRotated = false;
  static RowFormat Format(size_t head_dim) { return IntFormat(kBits, head_dim); }
  static float Param(uint16_t bits) { return F16ToFloat(bits); }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t i, size_t head_dim) {
    return hn::ConvertTo(d, LoadCodes<kBits>(d, row, i, head_dim));
  }
  static float LoadScalar(const std::byte* row, size_t i, size_t head_dim) {
    return static_cast<float>(UnpackCode(row, kBits, head_dim, i));
  }
};

template <class Codes>
class RowReader {
 public:
  static constexpr bool kInteger = false;
  static constexpr bool kIsCode = Codes::kIsCode;
  static constexpr float kStep = Codes::kStep;
  static constexpr float kCentre = Codes::kCentre;
  static constexpr bool kScaled = true;
  static constexpr bool kHasOffset = Codes::kHasOffset;
  static constexpr bool kRotated = Codes::kRotated;

  RowReader(const KvView& view, size_t kv_head, size_t head_dim)
      : head_dim_(head_dim),
        row_bytes_(Codes::Format(head_dim).row_bytes),
        token_capacity_(view.token_capacity) {
    const RowLayout at = LayoutOfView(Codes::Format(head_dim), view, kv_head);
    k_codes_ = view.encoded.data() + at.k_codes;
    v_codes_ = view.encoded.data() + at.v_codes;
    k_params_ = view.encoded.data() + at.k_params;
    v_params_ = view.encoded.data() + at.v_params;
  }

  static constexpr bool has_offset() { return kHasOffset; }
  static constexpr bool keys_rotated() { return kRotated; }
  static constexpr bool values_rotated() { return kRotated; }
  void Prepare(size_t /*first_token*/, size_t /*num_tokens*/) const {}

  template <class D>
  HWY_INLINE hn::Vec<D> Key(D d, size_t token, size_t i) const {
    return Codes::Load(d, k_codes_ + token * row_bytes_, i, head_dim_);
  }
  template <class D>
  HWY_INLINE hn::Vec<D> Value(D d, size_t token, size_t i) const {
    return Codes::Load(d, v_codes_ + token * row_bytes_, i, head_dim_);
  }
  float KeyScalar(size_t token, size_t i) const {
    return Codes::LoadScalar(k_codes_ + token * row_bytes_, i, head_dim_);
  }
  float ValueScalar(size_t token, size_t i) const {
    return Codes::LoadScalar(v_codes_ + token * row_bytes_, i, head_dim_);
  }
  // Scales of `count` tokens. REQUIRES: they are halves.
  void LoadKeyScales(size_t token, size_t count, float* scales) const {
    LoadScales(k_params_, token, count, scales);
  }
  void LoadValueScales(size_t token, size_t count, float* scales) const {
    LoadScales(v_params_, token, count, scales);
  }
  float KeyScale(size_t token) const { return Param(k_params_, 0, token); }
  float ValueScale(size_t token) const { return Param(v_params_, 0, token); }
  float KeyOffset(size_t token) const { return kHasOffset ? Param(k_params_, 1, token) : 0.0F; }
  float ValueOffset(size_t token) const { return kHasOffset ? Param(v_params_, 1, token) : 0.0F; }

 private:
  float Param(const std::byte* params, size_t index, size_t token) const {
    uint16_t bits;
    std::memcpy(&bits, params + (index * token_capacity_ + token) * sizeof(bits), sizeof(bits));
    return Codes::Param(bits);
  }
  void LoadScales(const std::byte* params, size_t token, size_t count, float* scales) const {
    WidenRow<DType::kF16>(params + token * sizeof(uint16_t), count, scales);
    const float one = Codes::Param(0x3c00);
    for (size_t i = 0; i < count; ++i) {
      scales[i] *= one;
    }
  }

  size_t head_dim_;
  size_t row_bytes_;
  size_t token_capacity_;
  const std::byte* k_codes_;
  const std::byte* v_codes_;
  const std::byte* k_params_;
  const std::byte* v_params_;
};

// Runs that are decoded tile by tile (Codec::DecodeHead) into scratch memory that stays in the
// cache.
class DecodedReader {
 public:
  static constexpr bool kInteger = false;
  static constexpr bool kIsCode = false;
  static constexpr bool kScaled = false;
  static constexpr bool kHasOffset = false;

  // scratch: DecodedFloats(head_dim).
  DecodedReader(const KvView& view,
                size_t num_kv_heads,
                size_t kv_head,
                size_t head_dim,
                float* scratch)
      : codec_(FindCodec(view.codec).value()),
        view_(view),
        shape_{static_cast<int32_t>(num_kv_heads),
               static_cast<int32_t>(head_dim),
               view.token_capacity},
        kv_head_(static_cast<int32_t>(kv_head)),
        head_dim_(head_dim),
        first_position_(view.first_position),
        keys_(scratch),
        values_(scratch + kTileTokens * head_dim) {}

  static constexpr bool has_offset() { return kHasOffset; }
  static constexpr bool keys_rotated() { return false; }
  static constexpr bool values_rotated() { return false; }
  // From now on keys are turned as if the run's token 0 stood there: all codecs without a reader of
  // their own, for few queries, code keys before RoPE.
  void SetFirstPosition(int64_t position) { first_position_ = position; }
  void Prepare(size_t first_token, size_t num_tokens) const {
    RunContext context = view_.context();
    context.first_position = first_position_;
    codec_->DecodeHead(shape_,
                       kv_head_,
                       static_cast<int32_t>(first_token),
                       static_cast<int32_t>(num_tokens),
                       view_.encoded,
                       context,
                       keys_,
                       values_);
    first_token_ = first_token;
  }
  template <class D>
  HWY_INLINE hn::Vec<D> Key(D d, size_t token, size_t i) const {
    return hn::LoadU(d, keys_ + (token - first_token_) * head_dim_ + i);
  }
  template <class D>
  HWY_INLINE hn::Vec<D> Value(D d, size_t token, size_t i) const {
    return hn::LoadU(d, values_ + (token - first_token_) * head_dim_ + i);
  }
  float KeyScalar(size_t token, size_t i) const {
    return keys_[(token - first_token_) * head_dim_ + i];
  }
  float ValueScalar(size_t token, size_t i) const {
    return values_[(token - first_token_) * head_dim_ + i];
  }
  float KeyScale(size_t /*token*/) const { return 1.0F; }
  float ValueScale(size_t /*token*/) const { return 1.0F; }
  float KeyOffset(size_t /*token*/) const { return 0.0F; }
  float ValueOffset(size_t /*token*/) const { return 0.0F; }

 private:
  const Codec* codec_;
  const KvView& view_;
  RunShape shape_;
  int32_t kv_head_;
  size_t head_dim_;
  int64_t first_position_;
  float* keys_;    // [kTileTokens, head_dim]
  float* values_;  // [kTileTokens, head_dim]
  mutable size_t first_token_ = 0;
};

// Calls body(reader) with the reader of the view's codec: the one place that knows all that have
// one of their own. decoded: DecodedFloats(head_dim) of scratch memory.
template <class Body>
HWY_INLINE void VisitReader(const KvView& view,
                            size_t num_kv_heads,
                            size_t kv_head,
                            size_t head_dim,
                            float* decoded,
                            const Body& body) {
  switch (view.codec) {
    case CodecId::kF32:
      body(ExactReader<DType::kF32>(view, kv_head, head_dim));
      break;
    case CodecId::kBf16:
      body(ExactReader<DType::kBf16>(view, kv_head, head_dim));
      break;
    case CodecId::kInt8:
      body(RowReader<Int8Codes>(view, kv_head, head_dim));
      break;
    case CodecId::kFp8:
      body(RowReader<Fp8Codes>(view, kv_head, head_dim));
      break;
    case CodecId::kInt4:
      body(RowReader<IntCodes<4>>(view, kv_head, head_dim));
      break;
    case CodecId::kInt3:
      body(RowReader<IntCodes<3>>(view, kv_head, head_dim));
      break;
    case CodecId::kInt2:
      body(RowReader<IntCodes<2>>(view, kv_head, head_dim));
      break;
    case CodecId::kRot4:
      body(RowReader<RotCodes<4>>(view, kv_head, head_dim));
      break;
    case CodecId::kRot3:
      body(RowReader<RotCodes<3>>(view, kv_head, head_dim));
      break;
    case CodecId::kRot2:
      body(RowReader<RotCodes<2>>(view, kv_head, head_dim));
      break;
    default:
      body(DecodedReader(view, num_kv_heads, kv_head, head_dim, decoded));
      break;
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
