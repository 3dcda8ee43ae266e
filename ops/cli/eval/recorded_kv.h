// Keys and values that a model really makes of a text, read back from the pages of a context.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/codec/table_set.h"
#include "proto/base/result.h"

#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_progress.h"
#include "ops/cli/eval/lab_text.h"
#include "ops/cli/eval/prepared_model.h"

namespace varve::cli {

struct RecordedPage {
  int32_t layer = 0;
  int64_t first_position = 0;
  std::vector<float> k;  // [page_tokens, num_kv_heads, head_dim], as pages hold them: after RoPE
  std::vector<float> v;
};

struct RecordedKv {
  std::string model;
  double outliers = 1;
  RunShape page;
  std::vector<RecordedPage> pages;  // of the layers with full attention
  // By which the keys of each layer were rotated: [num_layers], null for layers without positions.
  // Empty: none has any.
  std::vector<std::shared_ptr<const Rope>> ropes;
  CodecTableSet tables;  // made of other tokens than those of the pages

  // What `codec` needs to know to code one of the pages.
  RunContext ContextOf(const Codec& codec, const RecordedPage& recorded) const;
};

// The beginning of the text, up to `tokens`, cut into two halves: the pages are those of the second
// half, and the tables of those of the codecs that need some are made with the first. The last page
// or two of the text are not sealed and hence not recorded. Errors: as LabModel::Open and
// MakeCodecTables; kInvalidArgument if no page is left.
Result<RecordedKv> RecordKv(const PreparedModel& prepared,
                            int threads,
                            const LabText& text,
                            int64_t tokens,
                            const std::vector<const Codec*>& codecs,
                            LabProgress* progress);

}  // namespace varve::cli
