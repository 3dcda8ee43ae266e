#include "ops/cli/eval/lab_plan.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "coordinator/text_model.h"
#include "kvstore/tokens/token_policy.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/codec_tables.h"
#include "worker/weights.h"

#include "ops/cli/eval/divergence_eval.h"
#include "ops/cli/eval/planted_eval.h"
#include "ops/cli/eval/rate_eval.h"
#include "ops/cli/eval/tradeoff.h"

namespace varve::cli {
namespace {

Result<void> CheckParts(const EvalOptions& options) {
  const auto known = LabParts();
  for (const std::string& part : options.parts) {
    if (std::find(known.begin(), known.end(), part) == known.end()) {
      return Error{
          ErrorCode::kInvalidArgument,
          fmt::format("there is no part '{}'; there are: {}", part, fmt::join(known, ", "))};
    }
  }
  return {};
}

// Requests on a context choose pages; what reads a sequence of its own, or only encodes it, would
// give figures of exact attention that look like those of the choice.
Result<void> CheckPageSelection(const EvalOptions& options) {
  for (const std::string& label : options.policies) {
    const std::string name = label.substr(0, label.find(':'));
    const bool selects = name == kClusterKv || name == kSelectPolicy;
    for (const std::string& part : options.parts) {
      if (selects && part != "retrieval") {
        return Error{ErrorCode::kInvalidArgument,
                     fmt::format("part '{}' says nothing about '{}', which chooses what a request "
                                 "reads of a context: measure it with --parts retrieval",
                                 part,
                                 label)};
      }
    }
  }
  return {};
}

Result<void> CheckOutliers(const EvalOptions& options) {
  for (const double scale : options.outliers) {
    if (!(scale > 0) || !std::isfinite(scale)) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--outliers {:g}: a scale is over 0; 1 changes nothing", scale)};
    }
  }
  return {};
}

Result<void> CheckTables(const EvalOptions& options, const ModelConfig& config) {
  if (options.tables_file.empty()) {
    return {};
  }
  VARVE_TRY(const ModelWeights weights, LoadWeights(options.model_dir, config));
  VARVE_TRY(const auto tables, LoadCodecTables(options.tables_file, config, weights.model_hash));
  return {};
}

}  // namespace

std::span<const std::string_view> LabParts() {
  static constexpr std::string_view kParts[] = {
      "divergence", "retrieval", "planted", "rate", "tradeoff"};
  return kParts;
}

bool Wants(const EvalOptions& options, std::string_view part) {
  return std::find(options.parts.begin(), options.parts.end(), part) != options.parts.end();
}

Result<LabPlan> MakeLabPlan(const EvalOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckParts(options));
  VARVE_RETURN_IF_ERROR(CheckPageSelection(options));
  VARVE_RETURN_IF_ERROR(CheckOutliers(options));
  VARVE_TRY(const std::string config_text, ReadFile(options.model_dir + "/config.json"));
  VARVE_TRY(const ModelConfig config, ParseModelConfig(config_text));
  VARVE_RETURN_IF_ERROR(CheckTables(options, config));
  LabPlan plan;
  if (Wants(options, "divergence") || Wants(options, "retrieval") || Wants(options, "rate")) {
    VARVE_TRY(plan.candidates, MakeCandidates(options, ModelPage(config), config.num_layers));
  }
  if (Wants(options, "tradeoff")) {
    VARVE_TRY(plan.of_tradeoff, TradeoffCandidates(options, ModelPage(config), config.num_layers));
  }
  if (Wants(options, "rate")) {
    VARVE_TRY(plan.of_gaussian, MakeCandidates(options, GaussianPage()));
  }
  if (Wants(options, "planted")) {
    VARVE_RETURN_IF_ERROR(PlantedLengths(options));
    VARVE_TRY(plan.of_planted, MakeCandidates(options, PlantedPage()));
  }
  VARVE_TRY(plan.texts, ReadLabTexts(options.text_files, options.calibration_files));
  VARVE_TRY(const std::unique_ptr<TextModel> text_model,
            LoadTextModel(options.model_dir, &SystemClock()));
  if (Wants(options, "divergence") || Wants(options, "tradeoff")) {
    VARVE_TRY(plan.sequences,
              DivergenceSequences(options, plan.texts, *text_model, config.max_positions));
  }
  if (Wants(options, "retrieval") || Wants(options, "tradeoff")) {
    VARVE_TRY(plan.documents,
              MakeDocuments(options, plan.texts, *text_model, config.max_positions));
  }
  return plan;
}

RunShape ModelPage(const ModelConfig& config) {
  return {.num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .token_capacity = KvPolicy().page_tokens};
}

}  // namespace varve::cli
