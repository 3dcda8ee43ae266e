// Keys and values that a model really makes of a text, read back from the pages of a context.
#pragma once

#include <string>
#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_text.h"

namespace varve::cli {

struct RecordedPage {
  int32_t layer = 0;
  std::vector<float> k;  // [page_tokens, num_kv_heads, head_dim], as pages hold them: after RoPE
  std::vector<float> v;
};

struct RecordedKv {
  std::string model;
  RunShape page;
  std::vector<RecordedPage> pages;  // of the layers with full attention
};

// `options.data_dir` is chosen here. The text is repeated or cut to `tokens`; the last page or two
// of them are not sealed and hence not recorded. Errors: as LabModel::Open; kInvalidArgument if no
// page is sealed.
Result<RecordedKv> RecordKv(LabModel::Options options, const LabText& text, int64_t tokens);

}  // namespace varve::cli
