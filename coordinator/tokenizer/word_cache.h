// Remembers the ids of short words. One per thread at a time; not synchronised. Of two words that
// fall on one slot the newer stays: natural text repeats its words soon, and a fixed table neither
// grows nor allocates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace varve {

class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 30;
  static constexpr size_t kMaxIds = 8;
  static constexpr size_t kNumSlots = size_t{1} << 15;  // 2 MB

  // The ids of `word`, valid until the next Store; empty if not remembered.
  std::span<const int32_t> Find(std::string_view word) {
    if (word.size() > kMaxWordBytes || slots_.empty()) {
      return {};
    }
    const Slot& slot = SlotOf(word);
    if (slot.num_bytes != word.size() || std::memcmp(slot.bytes, word.data(), word.size()) != 0) {
      return {};
    }
    return {slot.ids, slot.num_ids};
  }

  // Words and ids that do not fit a slot are not remembered.
  void Store(std::string_view word, std::span<const int32_t> ids) {
    if (word.empty() || word.size() > kMaxWordBytes || ids.size() > kMaxIds) {
      return;
    }
    if (slots_.empty()) {
      slots_.resize(kNumSlots);
    }
    Slot& slot = SlotOf(word);
    slot.num_bytes = static_cast<uint8_t>(word.size());
    slot.num_ids = static_cast<uint8_t>(ids.size());
    std::memcpy(slot.bytes, word.data(), word.size());
    std::copy(ids.begin(), ids.end(), slot.ids);
  }

 private:
  struct alignas(64) Slot {
    uint8_t num_bytes = 0;
    uint8_t num_ids = 0;
    char bytes[kMaxWordBytes] = {};
    int32_t ids[kMaxIds] = {};
  };
  static_assert(sizeof(Slot) == 64);

  Slot& SlotOf(std::string_view word) {
    return slots_[std::hash<std::string_view>()(word) & (kNumSlots - 1)];
  }

  std::vector<Slot> slots_;
};

}  // namespace varve
