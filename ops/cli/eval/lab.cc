#include "ops/cli/eval/lab.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/divergence_eval.h"
#include "ops/cli/eval/lab_model.h"
#include "ops/cli/eval/lab_text.h"
#include "ops/cli/eval/planted_eval.h"
#include "ops/cli/eval/rate_eval.h"
#include "ops/cli/eval/retrieval_eval.h"

namespace varve::cli {
namespace {

constexpr int64_t kRecordedTokens = 2048;
// Codecs of about 16, 8, 4 and 2 bits, and the bits of each value that the last of them takes with
// every token: methods as different as they come at the same bytes.
constexpr std::string_view kTradeoffCodecs[] = {"bf16", "int8", "rot4", "rot2"};

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

// The candidates of part "tradeoff": every policy that prunes, with codecs of 16 to 2 bits, at
// equal bytes.
Result<std::vector<Candidate>> TradeoffCandidates(const EvalOptions& options,
                                                  const RunShape& page) {
  std::vector<const Codec*> codecs;
  for (const std::string_view name : kTradeoffCodecs) {
    VARVE_TRY(const Codec* codec, FindCodec(name));
    codecs.push_back(codec);
  }
  std::vector<Candidate> candidates;
  for (const std::string& label : options.policies) {
    VARVE_TRY(const PolicyChoice policy, ParsePolicyChoice(label));
    if (policy != PolicyChoice()) {
      const double budget = codecs.back()->BitsPerValue(page);
      const auto more = EqualByteCandidates(codecs, policy.name, budget, page);
      candidates.insert(candidates.end(), more.begin(), more.end());
    }
  }
  if (candidates.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("part 'tradeoff' compares many tokens in few bits with few tokens in "
                             "many: name a policy that prunes with --policies; there are: {}",
                             fmt::join(PolicyNames(), ", "))};
  }
  return candidates;
}

// What needs the model's workers: divergence and retrieval, of the candidates that were asked for
// and of those of the trade-off.
Result<std::vector<EvalRow>> MeasureModel(const EvalOptions& options,
                                          const std::vector<LabText>& texts,
                                          LabModel* model,
                                          LabProgress* progress) {
  std::vector<EvalRow> rows;
  const RunShape page = model->PageShape();
  if (Wants(options, "divergence") || Wants(options, "retrieval")) {
    VARVE_TRY(const auto candidates, MakeCandidates(options, page, model->has_tables()));
    if (Wants(options, "divergence")) {
      VARVE_TRY(auto more, MeasureDivergence(options, texts, candidates, model, progress));
      Append(std::move(more), &rows);
    }
    if (Wants(options, "retrieval")) {
      VARVE_TRY(auto more, MeasureRetrieval(options, texts, candidates, model, progress));
      Append(std::move(more), &rows);
    }
  }
  if (Wants(options, "tradeoff")) {
    VARVE_TRY(const auto candidates, TradeoffCandidates(options, page));
    VARVE_TRY(auto divergence, MeasureDivergence(options, texts, candidates, model, progress));
    VARVE_TRY(auto retrieval, MeasureRetrieval(options, texts, candidates, model, progress));
    Append(std::move(retrieval), &divergence);
    for (EvalRow& row : divergence) {
      row.part = "tradeoff";
    }
    Append(std::move(divergence), &rows);
  }
  return JoinRows(std::move(rows));
}

// What needs no workers.
Result<std::vector<EvalRow>> MeasureCodecs(const EvalOptions& options,
                                           const LabText& text,
                                           const LabModel::Options& model,
                                           LabProgress* progress) {
  std::vector<EvalRow> rows;
  if (Wants(options, "rate")) {
    VARVE_TRY(const RecordedKv kv, RecordKv(model, text, kRecordedTokens));
    VARVE_TRY(const auto candidates, MakeCandidates(options, kv.page, false));
    rows = MeasureRate(kv, model.outliers, candidates, progress);
  }
  if (Wants(options, "planted")) {
    VARVE_TRY(const auto candidates, MakeCandidates(options, PlantedPage(), false));
    VARVE_TRY(auto more, MeasurePlanted(options, model.outliers, candidates, progress));
    Append(std::move(more), &rows);
  }
  return rows;
}

}  // namespace

std::span<const std::string_view> LabParts() {
  static constexpr std::string_view kParts[] = {
      "divergence", "retrieval", "planted", "rate", "tradeoff"};
  return kParts;
}

Result<std::vector<EvalRow>> RunLab(const EvalOptions& options, LabProgress* progress) {
  VARVE_RETURN_IF_ERROR(Check(options));
  VARVE_TRY(const std::vector<LabText> texts, ReadLabTexts(options.text_files));
  std::vector<EvalRow> rows;
  if (Wants(options, "rate")) {
    const RecordedKv gaussian = GaussianKv(options.seed);
    VARVE_TRY(const auto candidates, MakeCandidates(options, gaussian.page, false));
    Append(ReferenceLines(), &rows);
    Append(MeasureRate(gaussian, 1, candidates, progress), &rows);
  }
  for (const double scale : options.outliers) {
    const LabModel::Options model_options{.model_dir = options.model_dir,
                                          .weights = options.weights,
                                          .outliers = scale,
                                          .seed = options.seed,
                                          .threads = options.threads,
                                          .max_step_tokens = DivergenceStepTokens(options),
                                          .data_dir = ""};
    if (Wants(options, "divergence") || Wants(options, "retrieval") || Wants(options, "tradeoff")) {
      VARVE_TRY(const std::unique_ptr<LabModel> model, LabModel::Open(model_options));
      if (options.weights != "auto" && Wants(options, "divergence")) {
        LabModel::Options as_stored = model_options;
        as_stored.weights = "auto";
        VARVE_TRY(const std::unique_ptr<LabModel> stored, LabModel::Open(as_stored));
        VARVE_TRY(auto row, MeasureWeights(options, texts, stored.get(), model.get(), progress));
        Append(std::move(row), &rows);
      }
      VARVE_TRY(auto more, MeasureModel(options, texts, model.get(), progress));
      Append(std::move(more), &rows);
    }
    VARVE_TRY(auto more, MeasureCodecs(options, texts.front(), model_options, progress));
    Append(std::move(more), &rows);
  }
  return rows;
}

}  // namespace varve::cli
