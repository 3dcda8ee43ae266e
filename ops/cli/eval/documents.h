// Documents with planted facts (facts.h) as tokens, and what is asked about them. Next:
// ops/cli/eval/retrieval_eval.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coordinator/text_model.h"
#include "proto/base/result.h"

#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/facts.h"
#include "ops/cli/eval/lab_text.h"

namespace varve::cli {

// Tokens of a question at most: a step of the lab takes two of them.
inline constexpr int64_t kLongestQuestion = 224;

struct AskedQuestion {
  Task task = Task::kNeedle;
  std::vector<int32_t> tokens;
  std::vector<size_t> scored;  // places in tokens that must be predicted
};

struct Document {
  int64_t length = 0;           // that was asked for
  std::vector<int32_t> tokens;  // as a context begins
  std::vector<AskedQuestion> questions;
};

// For each length of options.document_tokens so many that each task has options.questions.
// kInvalidArgument if a length is too short for facts or longer than the model takes, kUnsupported
// if the model has no chat template.
Result<std::vector<Document>> MakeDocuments(const EvalOptions& options,
                                            const std::vector<LabText>& texts,
                                            const TextModel& text_model,
                                            int64_t max_positions);

}  // namespace varve::cli
