// The document of `varve bench context`: about as many tokens as were asked for, with facts planted
// in it. The same text, length, number of questions and seed give the same document on every
// machine, so that a context that took an hour to ingest can be used again.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "proto/base/result.h"

#include "ops/cli/eval/facts.h"

namespace varve::cli {

struct ContextDocumentOptions {
  int64_t tokens = 0;     // of the document, about
  int64_t questions = 0;  // a multiple of the number of tasks
  uint64_t seed = 1;
};

// `text` is repeated if it is too short. `count_tokens` counts those of a text. Errors: those of
// count_tokens; kInvalidArgument (no text; a number of questions that the tasks cannot share; too
// few tokens for the facts alone).
Result<FactDocument> MakeContextDocument(
    std::string_view text,
    const ContextDocumentOptions& options,
    const std::function<Result<int64_t>(std::string_view)>& count_tokens);

}  // namespace varve::cli
