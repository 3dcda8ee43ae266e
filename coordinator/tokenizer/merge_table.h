// The merges of a BPE vocabulary, looked up by the pair that they join. Immutable after the last
// Add.
#pragma once

#include <cstdint>
#include <vector>

namespace varve {

struct BpeMerge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t result = 0;
};

class MergeTable {
 public:
  static constexpr uint32_t kNoMerge = UINT32_MAX;

  MergeTable() = default;
  // The rank of a merge is its index; of two merges of one pair the later counts.
  explicit MergeTable(std::vector<BpeMerge> merges);

  // The rank of the merge of these two tokens, lower merges first, or kNoMerge.
  uint32_t RankOf(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (uint64_t slot = SlotOf(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) {
        return slots_[slot].rank;
      }
      if (slots_[slot].rank == kNoMerge) {
        return kNoMerge;
      }
    }
  }
  const BpeMerge& merge(uint32_t rank) const { return merges_[rank]; }
  const std::vector<BpeMerge>& merges() const { return merges_; }

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    uint32_t rank = kNoMerge;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
  }
  uint64_t SlotOf(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; }

  std::vector<BpeMerge> merges_;
  std::vector<Slot> slots_ = std::vector<Slot>(2);  // open addressing, at most 2/3 full
  uint64_t mask_ = 1;
  int shift_ = 63;
};

}  // namespace varve
