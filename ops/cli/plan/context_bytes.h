// How many bytes a context of a given length takes, without one: the sizes of the records that a
// store would write, by the store's own arithmetic, and what it holds beside them.
#pragma once

#include <cstdint>

#include "kvstore/kv_geometry.h"
#include "proto/base/result.h"
#include "proto/kv_policy.h"

namespace varve::cli {

struct ContextBytes {
  int64_t pages = 0;          // sealed ones, over all layers
  uint64_t page_bytes = 0;    // their records
  uint64_t tail_bytes = 0;    // records of the newest tokens
  uint64_t row_bytes = 0;     // what the disk holds beside each record
  uint64_t sketch_bytes = 0;  // in host memory, once a request attends selectively
  uint64_t bf16_bytes = 0;    // the same tokens in bf16
  // One full page of a layer: the least that moves between tiers.
  uint64_t full_page_bytes = 0;

  uint64_t disk_bytes() const { return page_bytes + tail_bytes + row_bytes; }
};

// What the worker `shard` holds of a context of `tokens` tokens whose pages are all as `policy` has
// them on its first rung. `context_id` decides which worker has the first page. Errors:
// kInvalidArgument (the policy).
Result<ContextBytes> BytesOfContext(const KvGeometry& geometry,
                                    const KvPolicy& policy,
                                    int64_t tokens,
                                    const Shard& shard,
                                    uint64_t context_id);

// `geometry` with tables for the codecs of `policy` that need some, made from random numbers: good
// for sizes, which do not depend on their content (of codecs that tables size, on it a little).
Result<KvGeometry> WithStandInTables(KvGeometry geometry, const KvPolicy& policy);

}  // namespace varve::cli
