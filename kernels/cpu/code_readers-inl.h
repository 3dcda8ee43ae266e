// Readers of codes: rows of one kv head of an encoded run as 8-bit integers, for attention in
// integer arithmetic, per target. The number meant is
//   code * step of the codec * scale of the token + offset of the token (has_offset),
// in rotated coordinates if `rotated`.
//
// A row is read in parts of 32 codes, in the order in which they are packed, widened to 16 bits and
// raised by kCodeBias, which makes widening one instruction. Vectors have one or two blocks of
// sixteen bytes; with one, a part is two of them (kLane), with two its blocks are the lanes.
// Place says which eight consecutive dimensions half `half` of a lane holds. head_dim is a multiple
// of kChunkDims.
#if defined(VARVE_KERNELS_CPU_CODE_READERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_CODE_READERS_INL_H_
#undef VARVE_KERNELS_CPU_CODE_READERS_INL_H_
#else
#define VARVE_KERNELS_CPU_CODE_READERS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/attend.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/int_block.h"
#include "kernels/codec/rot_block.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/widen-inl.h"

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kPartCodes = 32;
inline constexpr size_t kBlockBytes = 16;
inline constexpr size_t kLineBytes = 64;  // of the cache
inline constexpr int32_t kCodeBias = 128;

using ByteTag = hn::CappedTag<uint8_t, kPartCodes>;
using WordTag = hn::Repartition<int16_t, ByteTag>;
using ByteVec = hn::Vec<ByteTag>;
using WordVec = hn::Vec<WordTag>;
inline constexpr size_t kBlocks = hn::MaxLanes(ByteTag()) / kBlockBytes;
// Vectors of a part, as bytes.
inline constexpr size_t kLaneVectors = 2 / kBlocks;

// The lower and the upper half of every block, each byte a word.
HWY_INLINE WordVec LowerWords(ByteVec bytes) {
  return hn::BitCast(WordTag(), hn::InterleaveLower(ByteTag(), bytes, hn::Zero(ByteTag())));
}
HWY_INLINE WordVec UpperWords(ByteVec bytes) {
  return hn::BitCast(WordTag(), hn::InterleaveUpper(ByteTag(), bytes, hn::Zero(ByteTag())));
}

// Half kHalf of two rows' blocks, byte by byte.
template <size_t kHalf>
HWY_INLINE ByteVec InterleaveHalf(ByteVec first, ByteVec second) {
  return kHalf == 0 ? hn::InterleaveLower(ByteTag(), first, second)
                    : hn::InterleaveUpper(ByteTag(), first, second);
}

// Packed codes of 2, 3 or 4 bits (row_block.h): a chunk is sixteen bytes, of which each part has
// two neighbouring fields, one for each lane.
template <size_t kBits>
struct PackedParts {
  static constexpr size_t kPlaneBits = kBits == 3 ? 2 : kBits;
  static constexpr size_t kSubs = 4 / kPlaneBits;
  static constexpr size_t kChunkDims = kSubs * kPartCodes;

  static size_t Place(size_t chunk, size_t sub, size_t lane, size_t half) {
    return chunk * kChunkDims + half * (kChunkDims / 2) + (2 * sub + lane) * 8;
  }
  // Codes of a row, before their levels are looked up.
  template <size_t kSub, size_t kLane>
  static HWY_INLINE ByteVec Row(const std::byte* row, size_t chunk, size_t head_dim) {
    auto codes = Field<kSub, kLane>(LoadChunk(row, chunk));
    if constexpr (kBits == 3) {
      const auto unit = LoadUnit(row, chunk, head_dim);
      codes = hn::Or(codes, ThirdBits<kSub, kLane, 0, 1>(unit));
    }
    return codes;
  }
  // Half kHalf of two rows' codes, alternating.
  template <size_t kSub, size_t kLane, size_t kHalf>
  static HWY_INLINE ByteVec
  Pairs(const std::byte* first, const std::byte* second, size_t chunk, size_t head_dim) {
    auto codes = Field<kSub, kLane>(
        InterleaveHalf<kHalf>(LoadChunk(first, chunk), LoadChunk(second, chunk)));
    if constexpr (kBits == 3) {
      const auto units = hn::InterleaveLower(
          ByteTag(), LoadUnit(first, chunk, head_dim), LoadUnit(second, chunk, head_dim));
      codes = hn::Or(codes, ThirdBits<kSub, kLane, kHalf, kHalf>(units));
    }
    return codes;
  }

 private:
  static HWY_INLINE ByteVec LoadChunk(const std::byte* row, size_t chunk) {
    // Nothing but bytes: no alignment is needed on any target.
    return hn::LoadDup128(ByteTag(), reinterpret_cast<const uint8_t*>(row + chunk * kBlockBytes));
  }
  template <size_t kSub, size_t kLane>
  static HWY_INLINE ByteVec Field(ByteVec packed) {
    const hn::Repartition<uint32_t, ByteTag> d32;
    auto words = hn::BitCast(d32, packed);
    if constexpr (kBlocks == 1) {
      words = hn::ShiftRight<static_cast<int>((2 * kSub + kLane) * kPlaneBits)>(words);
    } else {
      constexpr uint32_t kLow = 2 * kSub * kPlaneBits;
      constexpr uint32_t kHigh = kLow + kPlaneBits;
      alignas(32) static constexpr uint32_t kShifts[8] = {
          kLow, kLow, kLow, kLow, kHigh, kHigh, kHigh, kHigh};
      words = hn::Shr(words, hn::Load(d32, kShifts));
    }
    // Bits that came in from the neighbour's byte are masked off.
    return hn::And(hn::BitCast(ByteTag(), words), hn::Set(ByteTag(), (1U << kPlaneBits) - 1));
  }

  // A chunk's third bits are one unit: bit b of byte j is that of value j + 8 b.
  static HWY_INLINE ByteVec LoadUnit(const std::byte* row, size_t chunk, size_t head_dim) {
    const hn::Repartition<uint64_t, ByteTag> d64;
    uint64_t bytes;
    std::memcpy(&bytes, row + PlaneBytes(2, head_dim) + chunk * kUnitBytes, sizeof(bytes));
    return hn::BitCast(ByteTag(), hn::Set(d64, bytes));
  }
  // As 4 or 0. kLower, kUpper: which half of the chunk the lower and the upper bytes of a block
  // belong to.
  template <size_t kSub, size_t kLane, size_t kLower, size_t kUpper>
  static HWY_INLINE ByteVec ThirdBits(ByteVec units) {
    const hn::Repartition<uint64_t, ByteTag> d64;
    constexpr uint64_t kEach = 0x0101010101010101U;
    constexpr uint64_t kLow = kEach << (2 * kSub + kLane + 4 * kLower);
    constexpr uint64_t kHigh = kEach << (2 * kSub + kLane + 4 * kUpper);
    alignas(32) static constexpr uint64_t kMasks[4] = {kLow, kHigh, kLow << 1, kHigh << 1};
    const auto masks = hn::BitCast(ByteTag(), hn::Load(d64, kMasks));
    const auto is_set = hn::VecFromMask(ByteTag(), hn::TestBit(units, masks));
    return hn::And(is_set, hn::Set(ByteTag(), 4));
  }
};

// One signed byte per code: a chunk is 32 bytes.
template <>
struct PackedParts<8> {
  static constexpr size_t kSubs = 1;
  static constexpr size_t kChunkDims = kPartCodes;

  static size_t Place(size_t chunk, size_t /*sub*/, size_t lane, size_t half) {
    return chunk * kPartCodes + lane * kBlockBytes + half * 8;
  }
  template <size_t kSub, size_t kLane>
  static HWY_INLINE ByteVec Row(const std::byte* row, size_t chunk, size_t /*head_dim*/) {
    return Raise(Load<kLane>(row, chunk));
  }
  template <size_t kSub, size_t kLane, size_t kHalf>
  static HWY_INLINE ByteVec
  Pairs(const std::byte* first, const std::byte* second, size_t chunk, size_t /*head_dim*/) {
    return Raise(InterleaveHalf<kHalf>(Load<kLane>(first, chunk), Load<kLane>(second, chunk)));
  }

 private:
  template <size_t kLane>
  static HWY_INLINE ByteVec Load(const std::byte* row, size_t chunk) {
    return hn::LoadU(
        ByteTag(),
        reinterpret_cast<const uint8_t*>(row + chunk * kPartCodes + kLane * kBlockBytes));
  }
  // Adds kCodeBias.
  static HWY_INLINE ByteVec Raise(ByteVec codes) {
    return hn::Xor(codes, hn::Set(ByteTag(), 0x80));
  }
};

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

template <size_t kBits>
class CodeReader {
 public:
  using Parts = PackedParts<kBits>;
  static constexpr bool kInteger = true;
  static constexpr bool kScaled = true;
  static constexpr size_t kSubs = Parts::kSubs;
  static constexpr size_t kChunkDims = Parts::kChunkDims;

  CodeReader(const CodeMeaning& meaning, const KvView& view, size_t kv_head, size_t head_dim)
      : meaning_(meaning), head_dim_(head_dim), token_capacity_(view.token_capacity) {
    const RowLayout at = RowLayoutOfHead(meaning.format, kv_head, view.token_capacity);
    k_codes_ = view.encoded.data() + at.k_codes;
    v_codes_ = view.encoded.data() + at.v_codes;
    k_params_ = view.encoded.data() + at.k_params;
    v_params_ = view.encoded.data() + at.v_params;
  }

  bool has_offset() const { return meaning_.has_offset; }
  bool rotated() const { return meaning_.rotated; }
  float step() const { return meaning_.step; }
  void Prepare(size_t /*first_token*/, size_t /*num_tokens*/) const {}

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
  // Scales, and offsets if there are some, of `count` tokens.
  void LoadKeyParams(size_t token, size_t count, float* scales, float* offsets) const {
    LoadParams(k_params_, token, count, scales, offsets);
  }
  void LoadValueParams(size_t token, size_t count, float* scales, float* offsets) const {
    LoadParams(v_params_, token, count, scales, offsets);
  }

  // Rows on their way into the cache: values while keys are read, and the keys of the view that
  // comes next (null: none of this codec) while values are.
  void SetNext(const KvView* next, size_t kv_head) {
    if (next != nullptr) {
      const RowLayout at = RowLayoutOfHead(meaning_.format, kv_head, next->token_capacity);
      next_keys_ = next->encoded.data() + at.k_codes + next->first_token * row_bytes();
      const size_t param_bytes =
          meaning_.format.num_params * next->token_capacity * sizeof(uint16_t);
      for (size_t byte = 0; byte < 2 * param_bytes; byte += kLineBytes) {
        hwy::Prefetch(next->encoded.data() + at.k_params + byte);
      }
    }
  }
  HWY_INLINE void PrefetchValue(size_t token) const { Prefetch(v_codes_ + token * row_bytes()); }
  HWY_INLINE void PrefetchNextKey(size_t index) const {
    Prefetch(next_keys_ + index * row_bytes());
  }

 private:
  HWY_INLINE ByteVec LevelsOf(ByteVec codes) const {
    if constexpr (kBits == 8) {
      return codes;
    } else {
      return hn::TableLookupBytes(hn::LoadDup128(ByteTag(), meaning_.levels), codes);
    }
  }
  size_t row_bytes() const { return meaning_.format.row_bytes; }
  HWY_INLINE void Prefetch(const std::byte* row) const {
    for (size_t at = 0; at < row_bytes(); at += kLineBytes) {
      hwy::Prefetch(row + at);
    }
  }
  void LoadParams(const std::byte* params,
                  size_t token,
                  size_t count,
                  float* scales,
                  float* offsets) const {
    const DType dtype = meaning_.bf16_scales ? DType::kBf16 : DType::kF16;
    WidenRow(dtype, params + token * sizeof(uint16_t), count, scales);
    if (!meaning_.has_offset) {
      return;
    }
    WidenRow(dtype, params + (token_capacity_ + token) * sizeof(uint16_t), count, offsets);
    for (size_t i = 0; i < count; ++i) {
      offsets[i] += meaning_.centre * scales[i];
    }
  }

  CodeMeaning meaning_;
  size_t head_dim_;
  size_t token_capacity_;
  const std::byte* k_codes_;
  const std::byte* v_codes_;
  const std::byte* k_params_;
  const std::byte* v_params_;
  const std::byte* next_keys_ = nullptr;
};

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
