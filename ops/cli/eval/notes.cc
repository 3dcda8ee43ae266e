#include "ops/cli/eval/notes.h"

#include <algorithm>

#include "ops/cli/eval/tradeoff.h"

namespace varve::cli {

std::vector<std::string> NotesOn(const std::vector<EvalRow>& rows) {
  std::vector<std::string> notes;
  const auto has = [&rows](const char* tables, bool in_models) {
    return std::any_of(rows.begin(), rows.end(), [&](const EvalRow& row) {
      return row.tables == tables && (row.part != "planted" && row.part != "rate") == in_models;
    });
  };
  if (has(kTablesOfFile, true)) {
    notes.emplace_back(
        "tables \"file\": made by `varve calibrate`, beside the model or in --tables");
  }
  if (has(kTablesMade, true)) {
    notes.emplace_back(
        "tables \"made\": calibrated for this run, with text that is held apart from what is "
        "measured");
  }
  if (has(kTablesMade, false)) {
    notes.emplace_back(
        "tables of planted and rate: calibrated for this run, with another draw of the same "
        "statistics, or with the first half of the text, the second half of which is measured");
  }
  const std::vector<std::string> of_tradeoff = DescribeTradeoff(rows);
  notes.insert(notes.end(), of_tradeoff.begin(), of_tradeoff.end());
  return notes;
}

}  // namespace varve::cli
