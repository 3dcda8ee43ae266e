// The calibrated tables of a model: for each codec that needs some, one per layer. Immutable,
// shared by all workers.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "kernels/codec/codec.h"

namespace varve {

class CodecTableSet {
 public:
  // Null if there are none.
  const CodecTables* Find(CodecId codec, int32_t layer) const {
    const auto found = tables_.find({codec, layer});
    return found == tables_.end() ? nullptr : &found->second;
  }
  void Add(CodecId codec, int32_t layer, CodecTables tables) {
    tables_[{codec, layer}] = std::move(tables);
  }
  const std::map<std::pair<CodecId, int32_t>, CodecTables>& all() const { return tables_; }

 private:
  std::map<std::pair<CodecId, int32_t>, CodecTables> tables_;
};

}  // namespace varve
