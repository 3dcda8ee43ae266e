// The one kind of row that every part of the lab returns, and the writers of rows: table and JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace varve::cli {

struct Figure {
  std::string name;
  double value = 0;
  bool is_detail = false;  // in JSON, not in tables
};

// Where a row's tables are from.
inline constexpr const char* kTablesOfFile = "file";  // from `varve calibrate`
inline constexpr const char* kTablesMade = "made";    // by the lab, with what it does not measure

// Of rows of the trade-off: the bits for each value of all tokens that a candidate had to fit.
inline constexpr std::string_view kBudgetFigure = "budget";

struct EvalRow {
  std::string part;   // "quality" (divergence and retrieval), "planted", "rate", "tradeoff"
  std::string model;  // directory name, or what stands for a model
  double outliers = 1;
  std::string codec;
  std::string policy;
  double bpe =
      0;  // bits that are kept for each K or V value of a token, metadata and pruning counted
  std::string tables = {};      // one of the above; empty: the codec needs none
  std::vector<Figure> figures;  // in the order of the table

  void Add(std::string name, double value) { figures.push_back({std::move(name), value, false}); }
  void AddDetail(std::string name, double value) {
    figures.push_back({std::move(name), value, true});
  }
  std::optional<double> Find(std::string_view name) const;
};

// Joins rows about the same thing (all but the figures are equal, and the figure "budget" too where
// there is one): the figures of later ones are added to the first.
std::vector<EvalRow> JoinRows(std::vector<EvalRow> rows);

// One table for each part, in the order in which they first occur. A figure that a row lacks is
// "-"; the column of tables is there if a row of the part has some.
std::string FormatTables(const std::vector<EvalRow>& rows);
// The same as Markdown.
std::string FormatMarkdown(const std::vector<EvalRow>& rows);
// A list with one object for each row: part, model, outliers, codec, policy, bpe, tables if it
// needs some, then its figures.
std::string FormatJson(const std::vector<EvalRow>& rows);

}  // namespace varve::cli
