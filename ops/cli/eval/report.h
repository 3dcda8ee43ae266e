// What `varve eval --out DIR` leaves behind: results.json, table.md, and plots of them.
#pragma once

#include <string>
#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/eval_row.h"

namespace varve::cli {

// Whether this file can be written: tries, beside it. kIoError and others of WriteFileAtomically.
Result<void> CheckWritable(const std::string& file);

// Makes the directory if it is not there. Errors: as CheckWritable, of the files that belong there.
Result<void> PrepareReport(const std::string& directory);

// Writes both files into a directory that PrepareReport has seen, then has Python draw the plots,
// PNG and SVG (ops/eval/plot.py says which). Returns what to tell the user: which plots there are,
// or, if Python or matplotlib is missing, what to install; the files are written either way.
// kIoError.
Result<std::string> WriteReport(const std::string& directory, const std::vector<EvalRow>& rows);

}  // namespace varve::cli
