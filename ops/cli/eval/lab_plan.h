// All that a run of the lab measures with, made before anything that takes long, so that what is
// wrong with its options is said at once. Next: ops/cli/eval/lab.h
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "proto/base/result.h"
#include "worker/model_config.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/documents.h"
#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/lab_text.h"

namespace varve::cli {

// divergence, retrieval, planted, rate, tradeoff.
std::span<const std::string_view> LabParts();
bool Wants(const EvalOptions& options, std::string_view part);

// What belongs to a part that is not wanted is empty.
struct LabPlan {
  std::vector<LabText> texts;
  std::vector<std::vector<int32_t>> sequences;  // of tokens: divergence, tradeoff
  std::vector<Document> documents;              // retrieval, tradeoff
  std::vector<Candidate> candidates;            // divergence, retrieval, rate of recorded pages
  std::vector<Candidate> of_tradeoff;
  std::vector<Candidate> of_gaussian;  // rate
  std::vector<Candidate> of_planted;
};

// Errors: kInvalidArgument (the options), and those of reading texts, config and
// tokenizer, and of LoadCodecTables.
Result<LabPlan> MakeLabPlan(const EvalOptions& options);

// The shape of a sealed page of a model.
RunShape ModelPage(const ModelConfig& config);

}  // namespace varve::cli
