// This machine, as `varve plan --machine here` sees it: its rates measured now, what a step reaches
// of them as it was measured once on another machine without GPUs (README.md, "Planning").
#pragma once

#include <string>

#include "proto/base/result.h"

#include "ops/cli/plan/machine.h"

namespace varve::cli {

// Takes a few seconds and 256 MiB of memory, and 128 MiB in `directory`, of which the rate of the
// disk is measured. kIoError.
Result<Machine> MeasureMachineHere(int threads, const std::string& directory);

// What the rest of the step reaches of the rates: everything but rates and sizes.
void SetCpuEfficiencies(Machine& machine);

}  // namespace varve::cli
