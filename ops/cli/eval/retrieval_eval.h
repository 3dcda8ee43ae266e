// Whether a model still finds what a document says when its KV is kept by a codec and a policy.
//
// Documents with planted facts (facts.h) are ingested as contexts are, in chunks, each chunk
// reading what is sealed as the candidate keeps it. Then every question is asked as a request of
// its own on the context: nothing of it was there when the context was compressed. The chat
// template renders the question, the answer's beginning "{key} is" is given, and the value must
// follow: every token of it the likeliest one, which is exact match under greedy decoding. (The
// value is fed as it should be: after a wrong token the question is lost anyway.) All of it is one
// step; where requests choose pages (clusterkv), the tokens of the value are steps of their own, as
// when they are served.
//
//   retrieval_exact      share of questions answered exactly, all tasks and lengths
//   retrieval_low, _high its 95 % bootstrap interval
//   retrieval_exact_kv   the same share with exact KV (f32)
//   retrieval_relative   retrieval_exact / retrieval_exact_kv; 0 if the model itself finds nothing
//   exact_TASK           share of each task, and exact_kv_TASK with exact KV
//   exact_N              share at documents of about N tokens, where there are several lengths
//   questions            how many were asked
#pragma once

#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/documents.h"
#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_progress.h"

namespace varve::cli {

// One row of part "quality" for each candidate. Errors: those of the model's steps.
Result<std::vector<EvalRow>> MeasureRetrieval(const EvalOptions& options,
                                              const std::vector<Document>& documents,
                                              const std::vector<Candidate>& candidates,
                                              LabModel* model,
                                              LabProgress* progress);

}  // namespace varve::cli
