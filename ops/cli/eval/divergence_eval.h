// What a way to keep KV does to a model's predictions on real text.
//
// The text goes through the model with exact KV (f32) and, in lockstep, once for each candidate.
// Sinks and the newest tokens stay exact, as they do when served. Two ways:
//
//   pseudo-decode  blocks of one page; a block sees the blocks before it as the candidate keeps
//   them.
//                  Errors compound over layers and over tokens, as in a long generation.
//   static         (unless options.with_static is false) two thirds of a sequence (at most 8,192
//   tokens) at once, with exact KV, which is then
//                  kept as the candidate keeps it; the rest (at most 2,048) reads that. Errors
//                  compound over layers only, as when a document was computed exactly and then
//                  compressed.
//
// Each prediction (pseudo-decode: from position 256 on) is compared with that of exact KV:
//
//   kl_mean, kl_p999   Kullback-Leibler divergence KL(exact || candidate), in nats: mean and 99.9th
//                      percentile
//   top1               share of positions at which the likeliest token is the same
//   nll_delta          mean increase of the negative log-likelihood of the text, in nats: the
//                      difference of the logarithms of the perplexities
//   positions          how many were compared
//   static_...         the same of the static way
//
// With weights held in another form than stored all of this runs on those, and one row more, of the
// codec "weights FORM", compares their exact KV with that of the weights as stored.
//
// KL is 10 to 100 times as sensitive as perplexity or task scores, and needs no labels: llama.cpp
// judges its weight formats by it.
#pragma once

#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_progress.h"
#include "ops/cli/eval/lab_text.h"

namespace varve::cli {

// The beginning of each text, cut into sequences of options.tokens that each begin as a context
// does. kInvalidArgument if a text is too short or a sequence has nothing to compare or is longer
// than the model takes.
Result<std::vector<std::vector<int32_t>>> DivergenceSequences(const EvalOptions& options,
                                                              const std::vector<LabText>& texts,
                                                              const TextModel& text_model,
                                                              int64_t max_positions);

// Tokens of the longest step that MeasureDivergence makes: what `model` must have been opened for.
int64_t DivergenceStepTokens(const EvalOptions& options);

// One row of part "quality" for each candidate. Errors: those of the model's steps.
Result<std::vector<EvalRow>> MeasureDivergence(const EvalOptions& options,
                                               const std::vector<std::vector<int32_t>>& sequences,
                                               const std::vector<Candidate>& candidates,
                                               LabModel* model,
                                               LabProgress* progress);

// The row about the weights that `model` holds, compared with those of `stored`.
Result<std::vector<EvalRow>> MeasureWeights(const EvalOptions& options,
                                            const std::vector<std::vector<int32_t>>& sequences,
                                            LabModel* stored,
                                            LabModel* model,
                                            LabProgress* progress);

}  // namespace varve::cli
