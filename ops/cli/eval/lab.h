// Runs the parts of the lab that were asked for, for each scale of outliers, and gathers their
// rows. Next: ops/cli/eval/lab_plan.h
#pragma once

#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_progress.h"

namespace varve::cli {

// Errors: those of MakeLabPlan, before anything that takes long, and those of opening a model and
// of its steps.
Result<std::vector<EvalRow>> RunLab(const EvalOptions& options, LabProgress* progress);

}  // namespace varve::cli
