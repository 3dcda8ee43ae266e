// What stands below the tables of the lab: what a column means where that is not plain, and what
// the rows say together.
#pragma once

#include <string>
#include <vector>

#include "ops/cli/eval/eval_row.h"

namespace varve::cli {

// One line each, without a line's end.
std::vector<std::string> NotesOn(const std::vector<EvalRow>& rows);

}  // namespace varve::cli
