// Rows of packed codes as bytes and as 16-bit words in vector registers, per target.
//
// A row is read in parts of 32 codes, in the order in which they are packed, widened to 16 bits and
// raised by kCodeBias, which makes widening one instruction. Vectors have one or two blocks of
// sixteen bytes; with one, a part is two of them (kLane), with two its blocks are the lanes.
// Place says which eight consecutive dimensions half `half` of a lane holds. head_dim is a multiple
// of kChunkDims.
#if defined(VARVE_KERNELS_CPU_PACKED_PARTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_PACKED_PARTS_INL_H_
#undef VARVE_KERNELS_CPU_PACKED_PARTS_INL_H_
#else
#define VARVE_KERNELS_CPU_PACKED_PARTS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/codec/row_block.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kPartCodes = 32;
inline constexpr size_t kBlockBytes = 16;
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

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
