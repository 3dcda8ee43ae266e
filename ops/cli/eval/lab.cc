#include "ops/cli/eval/lab.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/divergence_eval.h"
#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_text.h"
#include "ops/cli/eval/retrieval_eval.h"

namespace varve::cli {
namespace {

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

// Divergence and retrieval of these candidates.
Result<std::vector<EvalRow>> MeasureQuality(const EvalOptions& options,
                                            const std::vector<LabText>& texts,
                                            const std::vector<Candidate>& candidates,
                                            LabModel* model,
                                            LabProgress* progress) {
  std::vector<EvalRow> rows;
  if (Wants(options, "divergence")) {
    VARVE_TRY(auto more, MeasureDivergence(options, texts, candidates, model, progress));
    Append(std::move(more), &rows);
  }
  if (Wants(options, "retrieval")) {
    VARVE_TRY(auto more, MeasureRetrieval(options, texts, candidates, model, progress));
    Append(std::move(more), &rows);
  }
  return JoinRows(std::move(rows));
}

}  // namespace

std::span<const std::string_view> LabParts() {
  static constexpr std::string_view kParts[] = {"divergence", "retrieval"};
  return kParts;
}

Result<std::vector<EvalRow>> RunLab(const EvalOptions& options, LabProgress* progress) {
  VARVE_RETURN_IF_ERROR(Check(options));
  VARVE_TRY(const std::vector<LabText> texts, ReadLabTexts(options.text_files));
  std::vector<EvalRow> rows;
  for (const double scale : options.outliers) {
    VARVE_TRY(const std::unique_ptr<LabModel> model,
              LabModel::Open({.model_dir = options.model_dir,
                              .outliers = scale,
                              .seed = options.seed,
                              .threads = options.threads,
                              .max_step_tokens = DivergenceStepTokens(options)}));
    VARVE_TRY(const std::vector<Candidate> candidates, MakeCandidates(options, model->PageShape()));
    VARVE_TRY(auto more, MeasureQuality(options, texts, candidates, model.get(), progress));
    Append(std::move(more), &rows);
  }
  return rows;
}

}  // namespace varve::cli
