#include "ops/cli/eval/lab.h"

#include <algorithm>
#include <iterator>

#include "ops/cli/eval/divergence_eval.h"
#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_plan.h"
#include "ops/cli/eval/planted_eval.h"
#include "ops/cli/eval/prepared_model.h"
#include "ops/cli/eval/rate_eval.h"
#include "ops/cli/eval/retrieval_eval.h"
#include "ops/cli/eval/tradeoff.h"

namespace varve::cli {
namespace {

constexpr int64_t kRecordedTokens = 4096;

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

// Bits of codecs whose tables decide how large pages are: the mean over the layers.
void CountBits(const LabModel& model, std::vector<Candidate>* candidates) {
  const RunShape page = ModelPage(model.config());
  for (Candidate& candidate : *candidates) {
    if (!candidate.codec->sized_by_tables() || candidate.policy != PolicyChoice()) {
      continue;
    }
    double bits = 0;
    for (int32_t layer = 0; layer < model.config().num_layers; ++layer) {
      bits += candidate.codec->BitsPerValue(
          page, model.codec_tables()->Find(candidate.codec->id(), layer));
    }
    candidate.bpe = bits / model.config().num_layers;
  }
}

// What needs the model's workers: divergence and retrieval, of the candidates that were asked for
// and of those of the trade-off.
Result<std::vector<EvalRow>> MeasureModel(const EvalOptions& options,
                                          const LabPlan& plan,
                                          PreparedModel* prepared,
                                          LabProgress* progress) {
  std::vector<Candidate> candidates;
  std::vector<Candidate> of_tradeoff = plan.of_tradeoff;
  if (Wants(options, "divergence") || Wants(options, "retrieval")) {
    candidates = plan.candidates;
    VARVE_RETURN_IF_ERROR(NeedTables(plan.texts, prepared, &candidates, progress));
  }
  VARVE_RETURN_IF_ERROR(NeedTables(plan.texts, prepared, &of_tradeoff, progress));
  LabModel::Options model_options{.weights = options.weights,
                                  .threads = options.threads,
                                  .max_step_tokens = DivergenceStepTokens(options),
                                  .data_dir = ""};
  VARVE_TRY(const std::unique_ptr<LabModel> model, LabModel::Open(*prepared, model_options));
  CountBits(*model, &candidates);
  std::vector<EvalRow> rows;
  if (Wants(options, "divergence") && options.weights != "auto") {
    model_options.weights = "auto";
    VARVE_TRY(const std::unique_ptr<LabModel> stored, LabModel::Open(*prepared, model_options));
    VARVE_TRY(auto row,
              MeasureWeights(options, plan.sequences, stored.get(), model.get(), progress));
    Append(std::move(row), &rows);
  }
  if (Wants(options, "divergence")) {
    VARVE_TRY(auto more,
              MeasureDivergence(options, plan.sequences, candidates, model.get(), progress));
    Append(std::move(more), &rows);
  }
  if (Wants(options, "retrieval")) {
    VARVE_TRY(auto more,
              MeasureRetrieval(options, plan.documents, candidates, model.get(), progress));
    Append(std::move(more), &rows);
  }
  if (Wants(options, "tradeoff")) {
    VARVE_TRY(auto divergence,
              MeasureDivergence(options, plan.sequences, of_tradeoff, model.get(), progress));
    VARVE_TRY(auto retrieval,
              MeasureRetrieval(options, plan.documents, of_tradeoff, model.get(), progress));
    Append(std::move(retrieval), &divergence);
    for (EvalRow& row : divergence) {
      row.part = "tradeoff";
    }
    Append(std::move(divergence), &rows);
  }
  return JoinRows(std::move(rows));
}

std::vector<EvalRow> MeasureGaussian(const EvalOptions& options,
                                     const LabPlan& plan,
                                     LabProgress* progress) {
  const RecordedKv gaussian = GaussianKv(options.seed, CodecsOf(plan.of_gaussian));
  std::vector<EvalRow> rows = ReferenceLines();
  Append(MeasureRate(gaussian, plan.of_gaussian, progress), &rows);
  return rows;
}

Result<std::vector<EvalRow>> MeasureRecorded(const EvalOptions& options,
                                             const LabPlan& plan,
                                             const PreparedModel& prepared,
                                             LabProgress* progress) {
  VARVE_TRY(const RecordedKv kv,
            RecordKv(prepared,
                     options.threads,
                     plan.texts.front(),
                     std::min(kRecordedTokens, prepared.config().max_positions),
                     CodecsOf(plan.candidates),
                     progress));
  return MeasureRate(kv, plan.candidates, progress);
}

}  // namespace

Result<std::vector<EvalRow>> RunLab(const EvalOptions& options, LabProgress* progress) {
  VARVE_TRY(const LabPlan plan, MakeLabPlan(options));
  std::vector<EvalRow> rows;
  if (Wants(options, "rate")) {
    Append(MeasureGaussian(options, plan, progress), &rows);
  }
  for (const double scale : options.outliers) {
    VARVE_TRY(PreparedModel prepared,
              PreparedModel::Make({.model_dir = options.model_dir,
                                   .tables_file = options.tables_file,
                                   .outliers = scale,
                                   .seed = options.seed,
                                   .threads = options.threads,
                                   .calibration_tokens = options.calibration_tokens}));
    if (Wants(options, "divergence") || Wants(options, "retrieval") || Wants(options, "tradeoff")) {
      VARVE_TRY(auto more, MeasureModel(options, plan, &prepared, progress));
      Append(std::move(more), &rows);
    }
    if (Wants(options, "rate")) {
      VARVE_TRY(auto more, MeasureRecorded(options, plan, prepared, progress));
      Append(std::move(more), &rows);
    }
    if (Wants(options, "planted")) {
      VARVE_TRY(auto more, MeasurePlanted(options, scale, plan.of_planted, progress));
      Append(std::move(more), &rows);
    }
  }
  return rows;
}

}  // namespace varve::cli
