#include "ops/cli/eval/lab.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/divergence_eval.h"
#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_text.h"
#include "ops/cli/eval/planted_eval.h"
#include "ops/cli/eval/prepared_model.h"
#include "ops/cli/eval/rate_eval.h"
#include "ops/cli/eval/retrieval_eval.h"
#include "ops/cli/eval/tradeoff.h"

namespace varve::cli {
namespace {

constexpr int64_t kRecordedTokens = 4096;

bool Wants(const EvalOptions& options, std::string_view part) {
  return std::find(options.parts.begin(), options.parts.end(), part) != options.parts.end();
}

Result<void> Check(const EvalOptions& options) {
  for (const std::string& part : options.parts) {
    const auto known = LabParts();
    if (std::find(known.begin(), known.end(), part) == known.end()) {
      return Error{
          ErrorCode::kInvalidArgument,
          fmt::format("there is no part '{}'; there are: {}", part, fmt::join(known, ", "))};
    }
  }
  for (const double scale : options.outliers) {
    if (!(scale > 0) || !std::isfinite(scale)) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--outliers {:g}: a scale is over 0; 1 changes nothing", scale)};
    }
  }
  return {};
}

void Append(std::vector<EvalRow> more, std::vector<EvalRow>* rows) {
  std::move(more.begin(), more.end(), std::back_inserter(*rows));
}

// Sees to the tables of the candidates, and notes where they are from.
Result<void> NeedTables(const std::vector<LabText>& texts,
                        PreparedModel* prepared,
                        std::vector<Candidate>* candidates,
                        LabProgress* progress) {
  VARVE_RETURN_IF_ERROR(prepared->NeedTables(CodecsOf(*candidates), texts, progress));
  for (Candidate& candidate : *candidates) {
    candidate.tables = prepared->TablesOf(*candidate.codec);
  }
  return {};
}

// What needs the model's workers: divergence and retrieval, of the candidates that were asked for
// and of those of the trade-off.
Result<std::vector<EvalRow>> MeasureModel(const EvalOptions& options,
                                          const std::vector<LabText>& texts,
                                          PreparedModel* prepared,
                                          LabProgress* progress) {
  std::vector<Candidate> candidates;
  std::vector<Candidate> of_tradeoff;
  const RunShape page = prepared->PageShape(KvPolicy().page_tokens);
  if (Wants(options, "divergence") || Wants(options, "retrieval")) {
    VARVE_TRY(candidates, MakeCandidates(options, page));
    VARVE_RETURN_IF_ERROR(NeedTables(texts, prepared, &candidates, progress));
  }
  if (Wants(options, "tradeoff")) {
    VARVE_TRY(of_tradeoff, TradeoffCandidates(options, page));
    VARVE_RETURN_IF_ERROR(NeedTables(texts, prepared, &of_tradeoff, progress));
  }
  LabModel::Options model_options{.weights = options.weights,
                                  .threads = options.threads,
                                  .max_step_tokens = DivergenceStepTokens(options),
                                  .data_dir = ""};
  VARVE_TRY(const std::unique_ptr<LabModel> model, LabModel::Open(*prepared, model_options));
  std::vector<EvalRow> rows;
  if (Wants(options, "divergence") && options.weights != "auto") {
    model_options.weights = "auto";
    VARVE_TRY(const std::unique_ptr<LabModel> stored, LabModel::Open(*prepared, model_options));
    VARVE_TRY(auto row, MeasureWeights(options, texts, stored.get(), model.get(), progress));
    Append(std::move(row), &rows);
  }
  if (Wants(options, "divergence")) {
    VARVE_TRY(auto more, MeasureDivergence(options, texts, candidates, model.get(), progress));
    Append(std::move(more), &rows);
  }
  if (Wants(options, "retrieval")) {
    VARVE_TRY(auto more, MeasureRetrieval(options, texts, candidates, model.get(), progress));
    Append(std::move(more), &rows);
  }
  if (Wants(options, "tradeoff")) {
    VARVE_TRY(auto divergence,
              MeasureDivergence(options, texts, of_tradeoff, model.get(), progress));
    VARVE_TRY(auto retrieval, MeasureRetrieval(options, texts, of_tradeoff, model.get(), progress));
    Append(std::move(retrieval), &divergence);
    for (EvalRow& row : divergence) {
      row.part = "tradeoff";
    }
    Append(std::move(divergence), &rows);
  }
  return JoinRows(std::move(rows));
}

Result<std::vector<EvalRow>> MeasureGaussian(const EvalOptions& options, LabProgress* progress) {
  VARVE_TRY(const auto candidates, MakeCandidates(options, GaussianPage()));
  const RecordedKv gaussian = GaussianKv(options.seed, CodecsOf(candidates));
  std::vector<EvalRow> rows = ReferenceLines();
  Append(MeasureRate(gaussian, candidates, progress), &rows);
  return rows;
}

Result<std::vector<EvalRow>> MeasureRecorded(const EvalOptions& options,
                                             const LabText& text,
                                             const PreparedModel& prepared,
                                             LabProgress* progress) {
  VARVE_TRY(const auto candidates,
            MakeCandidates(options, prepared.PageShape(KvPolicy().page_tokens)));
  VARVE_TRY(const RecordedKv kv,
            RecordKv(prepared,
                     options.threads,
                     text,
                     std::min(kRecordedTokens, prepared.config().max_positions),
                     CodecsOf(candidates),
                     progress));
  return MeasureRate(kv, candidates, progress);
}

}  // namespace

std::span<const std::string_view> LabParts() {
  static constexpr std::string_view kParts[] = {
      "divergence", "retrieval", "planted", "rate", "tradeoff"};
  return kParts;
}

Result<std::vector<EvalRow>> RunLab(const EvalOptions& options, LabProgress* progress) {
  VARVE_RETURN_IF_ERROR(Check(options));
  VARVE_TRY(const std::vector<LabText> texts,
            ReadLabTexts(options.text_files, options.calibration_files));
  std::vector<EvalRow> rows;
  if (Wants(options, "rate")) {
    VARVE_TRY(auto more, MeasureGaussian(options, progress));
    Append(std::move(more), &rows);
  }
  for (const double scale : options.outliers) {
    VARVE_TRY(PreparedModel prepared,
              PreparedModel::Make({.model_dir = options.model_dir,
                                   .outliers = scale,
                                   .seed = options.seed,
                                   .threads = options.threads,
                                   .calibration_tokens = options.calibration_tokens}));
    if (Wants(options, "divergence") || Wants(options, "retrieval") || Wants(options, "tradeoff")) {
      VARVE_TRY(auto more, MeasureModel(options, texts, &prepared, progress));
      Append(std::move(more), &rows);
    }
    if (Wants(options, "rate")) {
      VARVE_TRY(auto more, MeasureRecorded(options, texts.front(), prepared, progress));
      Append(std::move(more), &rows);
    }
    if (Wants(options, "planted")) {
      VARVE_TRY(const auto candidates, MakeCandidates(options, PlantedPage()));
      VARVE_TRY(auto more, MeasurePlanted(options, scale, candidates, progress));
      Append(std::move(more), &rows);
    }
  }
  return rows;
}

}  // namespace varve::cli
