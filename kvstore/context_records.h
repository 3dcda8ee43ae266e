// The page records of a context's committed state, one after another: by layer and page the sealed
// ones, then the tails. Pure arithmetic over the manifest, whatever the number of workers.
#pragma once

#include <cstdint>
#include <optional>

#include "kvstore/kv_geometry.h"
#include "kvstore/memory_tier.h"
#include "kvstore/page_cursor.h"
#include "kvstore/page_format.h"
#include "proto/context_manifest.h"

namespace varve {

class ContextRecords {
 public:
  ContextRecords(const ContextManifest& manifest, const KvGeometry& geometry);

  struct Record {
    RecordId id;  // under whose key it is stored: of a fork, perhaps another context's
    PageIdentity identity;
    int32_t layer = 0;
  };
  // Nothing at the end.
  std::optional<Record> Next();
  // Of all of them.
  int64_t count() const;

 private:
  int64_t FirstPage(const PageSegment& segment, int32_t layer) const;

  const ContextManifest manifest_;
  const KvGeometry& geometry_;
  PageSegment sealed_;
  PageSegment tails_;
  bool at_tails_ = false;
  int32_t layer_ = 0;
  int64_t page_ = -1;  // -1: at the layer's first
};

}  // namespace varve
