#include "ops/cli/eval/lab_model.h"

#include <algorithm>

#include <fmt/format.h>

#include "proto/base/clock.h"

namespace varve::cli {
namespace {

constexpr uint64_t kHostBytes = uint64_t{16} << 30;  // a budget, not an allocation

}  // namespace

Result<std::unique_ptr<LabModel>> LabModel::Open(const PreparedModel& prepared,
                                                 const Options& options) {
  std::unique_ptr<LabModel> model(new LabModel());
  model->prepared_ = &prepared;
  VARVE_TRY(model->text_model_, LoadTextModel(prepared.directory(), &SystemClock()));
  VARVE_TRY(model->group_,
            LocalWorkerGroup::Open({.model_dir = prepared.directory(),
                                    .weights = options.weights,
                                    .tables_file = prepared.tables_file(),
                                    .num_workers = 1,
                                    .num_threads = options.threads,
                                    .data_dir = options.data_dir,
                                    .host_budget_bytes = kHostBytes,
                                    .max_step_tokens = options.max_step_tokens}));
  return model;
}

Result<SequenceId> LabModel::OpenSequence(const OpenSequenceOptions& options) {
  const SequenceId sequence{++num_sequences_};
  VARVE_RETURN_IF_ERROR(group_->OpenSequence(sequence, options));
  return sequence;
}

Result<std::vector<float>> LabModel::Step(SequenceId sequence,
                                          int64_t first_position,
                                          std::span<const int32_t> tokens,
                                          bool with_logits) {
  VARVE_TRY(StepResult result,
            group_->Step({.epoch = {1},
                          .step = ++step_,
                          .work = {{.sequence = sequence,
                                    .first_position = first_position,
                                    .tokens = {tokens.begin(), tokens.end()},
                                    .return_all_logits = with_logits}}}));
  if (result.results[0].error) {
    return *result.results[0].error;
  }
  return std::move(result.results[0].logits);
}

Result<std::vector<std::vector<float>>> LabModel::StepAll(std::vector<SequenceWork> work) {
  for (SequenceWork& one : work) {
    one.return_all_logits = true;
  }
  VARVE_TRY(StepResult result,
            group_->Step({.epoch = {1}, .step = ++step_, .work = std::move(work)}));
  std::vector<std::vector<float>> logits;
  for (SequenceResult& one : result.results) {
    if (one.error) {
      return *one.error;
    }
    logits.push_back(std::move(one.logits));
  }
  return logits;
}

Result<ContextId> LabModel::Ingest(std::span<const int32_t> tokens, const KvPolicy& policy) {
  const ContextId context{++num_contexts_};
  ContextManifest manifest{.id = context,
                           .name = fmt::format("eval-{}", context.value),
                           .model_hash = group_->model().model_hash,
                           .tokenizer_hash = text_model_->content_hash(),
                           .policy = policy};
  VARVE_RETURN_IF_ERROR(group_->CreateContext(manifest));
  VARVE_TRY(const SequenceId sequence, OpenSequence({.context = context, .policy = policy}));
  for (size_t first = 0; first < tokens.size(); first += kStepTokens) {
    const auto chunk = tokens.subspan(first, std::min<size_t>(kStepTokens, tokens.size() - first));
    VARVE_RETURN_IF_ERROR(Step(sequence, static_cast<int64_t>(first), chunk, false));
  }
  manifest.version = 1;
  manifest.num_tokens = static_cast<int64_t>(tokens.size());
  VARVE_RETURN_IF_ERROR(group_->CommitContext(
      sequence, manifest, {.tokens = {tokens.begin(), tokens.end()}, .text = ""}));
  VARVE_RETURN_IF_ERROR(CloseSequence(sequence));
  return context;
}

}  // namespace varve::cli
