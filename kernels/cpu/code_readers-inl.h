// Readers of codes: rows of one kv head of an encoded run as 8-bit integers, for attention in
// integer arithmetic, per target. The number meant is
//   code * step of the codec * scale of the token + offset of the token (has_offset),
// in rotated coordinates if `rotated`.
#if defined(VARVE_KERNELS_CPU_CODE_READERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_CODE_READERS_INL_H_
#undef VARVE_KERNELS_CPU_CODE_READERS_INL_H_
#else
#define VARVE_KERNELS_CPU_CODE_READERS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/attend.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/int_block.h"
#include "kernels/codec/kivi_block.h"
#include "kernels/codec/rot_block.h"
#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/packed_parts-inl.h"
#include "kernels/cpu/widen-inl.h"

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kLineBytes = 64;  // of the cache

// What the codes of a codec mean.
struct CodeMeaning {
  RowFormat format;
  // Of each packed code, in steps, plus kCodeBias; not used for codes of 8 bits.
  alignas(kBlockBytes) uint8_t levels[kBlockBytes] = {};
  float step = 1.0F;
  float centre = 0.0F;  // what the middle of the levels means, in scales
  bool has_offset = false;
  bool rotated = false;
  bool bf16_scales = false;  // else half
};

inline CodeMeaning MeaningOfInt8(size_t head_dim) {
  CodeMeaning meaning;
  meaning.format = Int8Format(head_dim);
  meaning.bf16_scales = true;
  return meaning;
}

inline CodeMeaning MeaningOfInt(size_t bits, size_t head_dim) {
  CodeMeaning meaning;
  meaning.format = IntFormat(bits, head_dim);
  // Around zero: what the rounding of queries and weights costs grows with the codes.
  const int highest = (1 << bits) - 1;
  for (int code = 0; code <= highest; ++code) {
    meaning.levels[code] = static_cast<uint8_t>(2 * code - highest + kCodeBias);
  }
  meaning.step = 0.5F;
  meaning.centre = static_cast<float>(highest) / 2.0F;
  meaning.has_offset = true;
  return meaning;
}

inline CodeMeaning MeaningOfRot(size_t bits, size_t head_dim) {
  CodeMeaning meaning;
  meaning.format = RotFormat(bits, head_dim);
  for (uint32_t code = 0; code < 1U << bits; ++code) {
    meaning.levels[code] = static_cast<uint8_t>(RotCodeLevel(bits, code) + kCodeBias);
  }
  meaning.step = RotTableOf(bits).step;
  meaning.rotated = true;
  return meaning;
}

// The codes of one kv head: rows of keys and of values.
template <size_t kBits>
class CodeRows {
 public:
  using Parts = PackedParts<kBits>;
  static constexpr bool kInteger = true;
  static constexpr size_t kSubs = Parts::kSubs;
  static constexpr size_t kChunkDims = Parts::kChunkDims;

  const CodeRows& rows() const { return *this; }
  float step() const { return meaning_.step; }
  bool has_offset() const { return meaning_.has_offset; }
  bool keys_rotated() const { return meaning_.rotated; }
  bool values_rotated() const { return meaning_.rotated; }

  static size_t Place(size_t chunk, size_t sub, size_t lane, size_t half) {
    return Parts::Place(chunk, sub, lane, half);
  }
  // Raised levels of a key, of which LowerWords and UpperWords are the halves.
  template <size_t kSub, size_t kLane>
  HWY_INLINE ByteVec Key(size_t token, size_t chunk) const {
    const std::byte* row = k_codes_ + token * row_bytes();
    return LevelsOf(Parts::template Row<kSub, kLane>(row, chunk, head_dim_));
  }
  // Raised levels of two values, alternating, of half kHalf.
  template <size_t kSub, size_t kLane, size_t kHalf>
  HWY_INLINE ByteVec ValuePairs(size_t first, size_t second, size_t chunk) const {
    return LevelsOf(Parts::template Pairs<kSub, kLane, kHalf>(
        v_codes_ + first * row_bytes(), v_codes_ + second * row_bytes(), chunk, head_dim_));
  }

  // Rows on their way into the cache: values while keys are read, and the keys of the view that
  // comes next (none: nothing, at address 0) while values are.
  HWY_INLINE void PrefetchValue(size_t token) const { Prefetch(v_codes_ + token * row_bytes()); }
  HWY_INLINE void PrefetchNextKey(size_t index) const {
    Prefetch(next_keys_ + index * row_bytes());
  }

 protected:
  CodeRows(const CodeMeaning& meaning, size_t head_dim) : meaning_(meaning), head_dim_(head_dim) {}

  void SetCodes(const std::byte* keys, const std::byte* values) {
    k_codes_ = keys;
    v_codes_ = values;
  }
  // The first row of keys to be read next, and the other numbers beside its codes.
  void SetNext(const std::byte* keys, const std::byte* params, size_t param_bytes) {
    next_keys_ = keys;
    for (size_t byte = 0; byte < param_bytes; byte += kLineBytes) {
      hwy::Prefetch(params + byte);
    }
  }
  size_t row_bytes() const { return meaning_.format.row_bytes; }
  // Scales, and offsets if there are some; an offset is that of the middle of the levels.
  void Widen(const std::byte* scale_bytes,
             const std::byte* offset_bytes,
             size_t count,
             float* scales,
             float* offsets) const {
    WidenRow(meaning_.bf16_scales ? DType::kBf16 : DType::kF16, scale_bytes, count, scales);
    if (!meaning_.has_offset) {
      return;
    }
    WidenRow(DType::kF16, offset_bytes, count, offsets);
    for (size_t i = 0; i < count; ++i) {
      offsets[i] += meaning_.centre * scales[i];
    }
  }

  CodeMeaning meaning_;
  size_t head_dim_;

 private:
  HWY_INLINE ByteVec LevelsOf(ByteVec codes) const {
    if constexpr (kBits == 8) {
      return codes;
    } else {
      return hn::TableLookupBytes(hn::LoadDup128(ByteTag(), meaning_.levels), codes);
    }
  }
  HWY_INLINE void Prefetch(const std::byte* row) const {
    for (size_t at = 0; at < row_bytes(); at += kLineBytes) {
      hwy::Prefetch(row + at);
    }
  }

  const std::byte* k_codes_ = nullptr;
  const std::byte* v_codes_ = nullptr;
  const std::byte* next_keys_ = nullptr;
};

// One scale (and offset) for each row: int8, int4..2, rot4..2.
template <size_t kBits>
class CodeReader : public CodeRows<kBits> {
 public:
  static constexpr bool kKeyGroups = false;

  CodeReader(const CodeMeaning& meaning, const KvView& view, size_t kv_head, size_t head_dim)
      : CodeRows<kBits>(meaning, head_dim),
        encoded_(view.encoded.data()),
        token_capacity_(view.token_capacity),
        at_(LayoutOfView(meaning.format, view, kv_head)) {
    this->SetCodes(encoded_ + at_.k_codes, encoded_ + at_.v_codes);
  }

  void SetNextView(const KvView& next, size_t kv_head) {
    const RowLayout at = LayoutOfView(this->meaning_.format, next, kv_head);
    const std::byte* bytes = next.encoded.data();
    this->SetNext(bytes + at.k_codes + next.first_token * this->row_bytes(),
                  bytes + at.k_params,
                  2 * (at.v_params - at.k_params));
  }
  void LoadKeyParams(size_t token, size_t count, float* scales, float* offsets) const {
    LoadParams(encoded_ + at_.k_params, token, count, scales, offsets);
  }
  // Value dimensions with numbers of their own: all together.
  size_t num_value_groups() const { return 1; }
  void LoadValueParams(size_t /*group*/,
                       size_t token,
                       size_t count,
                       float* scales,
                       float* offsets) const {
    LoadParams(encoded_ + at_.v_params, token, count, scales, offsets);
  }

 private:
  void LoadParams(const std::byte* params,
                  size_t token,
                  size_t count,
                  float* scales,
                  float* offsets) const {
    const std::byte* first = params + token * sizeof(uint16_t);
    this->Widen(first, first + token_capacity_ * sizeof(uint16_t), count, scales, offsets);
  }

  const std::byte* encoded_;
  size_t token_capacity_;
  RowLayout at_;
};

// kivi4, kivi2 (codec/kivi_block.h): keys have a scale and an offset for each channel of a group of
// tokens, values for each token of a group of channels.
template <size_t kBits>
class KiviReader : public CodeRows<kBits> {
 public:
  static constexpr bool kKeyGroups = true;

  KiviReader(size_t group, const KvView& view, size_t kv_head, size_t head_dim)
      : CodeRows<kBits>(MeaningOfInt(kBits, head_dim), head_dim),
        group_(group),
        keys_at_(KiviKeyLayout(kBits, group, head_dim, view.token_capacity)),
        values_at_(KiviValueLayout(kBits, group, head_dim, view.token_capacity)),
        keys_(view.encoded.data() + kv_head * (keys_at_.bytes + values_at_.bytes)),
        values_(keys_ + keys_at_.bytes) {
    this->SetCodes(keys_, values_);
  }

  void SetNextView(const KvView& next, size_t kv_head) {
    const KiviLayout keys = KiviKeyLayout(kBits, group_, this->head_dim_, next.token_capacity);
    const KiviLayout values = KiviValueLayout(kBits, group_, this->head_dim_, next.token_capacity);
    const std::byte* block = next.encoded.data() + kv_head * (keys.bytes + values.bytes);
    this->SetNext(block + next.first_token * this->row_bytes(),
                  block + keys.scales,
                  keys.bytes - keys.scales);
  }
  // The first token behind the group of keys that `token` is in.
  size_t KeyGroupEnd(size_t token) const { return (token / group_ + 1) * group_; }
  // Scales and offsets of all channels, for the group of `token`.
  void LoadKeyGroup(size_t token, float* scales, float* offsets) const {
    const size_t at = token / group_ * this->head_dim_ * sizeof(uint16_t);
    this->Widen(keys_ + keys_at_.scales + at,
                keys_ + keys_at_.offsets + at,
                this->head_dim_,
                scales,
                offsets);
  }
  size_t num_value_groups() const { return KiviGroups(this->head_dim_, group_); }
  void LoadValueParams(size_t group,
                       size_t token,
                       size_t count,
                       float* scales,
                       float* offsets) const {
    float all_scales[kMaxHeadDim];
    float all_offsets[kMaxHeadDim];
    const size_t groups = num_value_groups();
    const size_t tokens_at_once = kMaxHeadDim / groups;
    for (size_t t = 0; t < count; t += tokens_at_once) {
      const size_t tokens = std::min(tokens_at_once, count - t);
      const size_t at = (token + t) * groups * sizeof(uint16_t);
      this->Widen(values_ + values_at_.scales + at,
                  values_ + values_at_.offsets + at,
                  tokens * groups,
                  all_scales,
                  all_offsets);
      for (size_t i = 0; i < tokens; ++i) {
        scales[t + i] = all_scales[i * groups + group];
        offsets[t + i] = all_offsets[i * groups + group];
      }
    }
  }

 private:
  size_t group_;
  KiviLayout keys_at_;
  KiviLayout values_at_;
  const std::byte* keys_;
  const std::byte* values_;
};

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
