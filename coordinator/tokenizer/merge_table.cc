#include "coordinator/tokenizer/merge_table.h"

#include <cstddef>

namespace varve {

MergeTable::MergeTable(std::vector<BpeMerge> merges) : merges_(std::move(merges)) {
  int log2_slots = 1;
  while ((uint64_t{2} << log2_slots) < 3 * merges_.size()) {
    ++log2_slots;
  }
  slots_.assign(std::size_t{1} << log2_slots, Slot());
  mask_ = slots_.size() - 1;
  shift_ = 64 - log2_slots;
  for (uint32_t rank = 0; rank < merges_.size(); ++rank) {
    const uint64_t key = Key(merges_[rank].left, merges_[rank].right);
    uint64_t slot = SlotOf(key);
    while (slots_[slot].rank != kNoMerge && slots_[slot].key != key) {
      slot = (slot + 1) & mask_;
    }
    slots_[slot] = {key, rank};
  }
}

}  // namespace varve
