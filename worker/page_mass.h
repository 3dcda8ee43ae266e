// How a decode step's attention is spread over the pages of a sequence, for stores that want to
// know (KvStore::ObserveMass). Kept from the attention pass itself: the lse of each view beside
// that of all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/kv_store.h"

namespace varve {

// One sequence and layer at a time. Its buffers grow to the longest, then never again.
class PageMass {
 public:
  // Steps of more tokens than this are prefill: a document's own text says little about what will
  // be asked of it.
  static constexpr size_t kDecodeTokensMax = 4;

  // rows: queries times heads of the sequence in this step.
  void Begin(size_t rows) {
    rows_ = rows;
    pages_.clear();
  }
  // Where Attend puts the lse of the next views (AttendParams::lse_per_view). pages: [num_views]
  float* NextViews(std::span<const int64_t> pages);
  // lse: [rows], of all views together.
  void Show(KvStore& store, SequenceId sequence, int32_t layer, std::span<const float> lse);

 private:
  size_t rows_ = 0;
  std::vector<int64_t> pages_;  // [views]
  std::vector<float> lse_;      // [views, rows]
  std::vector<float> shares_;   // [views]
};

}  // namespace varve
