// Runs the parts of the lab that were asked for, for each scale of outliers, and gathers their
// rows.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_progress.h"

namespace varve::cli {

// divergence, retrieval, planted, rate, tradeoff.
std::span<const std::string_view> LabParts();

// Errors: kInvalidArgument (the options), and those of opening a model and of its steps.
Result<std::vector<EvalRow>> RunLab(const EvalOptions& options, LabProgress* progress);

}  // namespace varve::cli
