#include "ops/cli/eval/eval_row.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ops/cli/table.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

bool SameSubject(const EvalRow& a, const EvalRow& b) {
  return a.part == b.part && a.model == b.model && a.outliers == b.outliers && a.codec == b.codec &&
         a.policy == b.policy && a.Find(kBudgetFigure) == b.Find(kBudgetFigure);
}

// Counts as they are, the rest with what matters of its digits.
std::string FormatFigure(double value) {
  if (std::abs(value) < 1e15 && value == std::floor(value) && std::abs(value) >= 2) {
    return fmt::format("{:.0f}", value);
  }
  return std::abs(value) >= 0.1 || value == 0 ? fmt::format("{:.3f}", value)
                                              : fmt::format("{:.5f}", value);
}

using Cells = std::vector<std::vector<std::string>>;  // the header first

Cells CellsOfPart(const std::vector<EvalRow>& rows, const std::string& part) {
  std::vector<std::string> names;
  for (const EvalRow& row : rows) {
    for (const Figure& figure : row.figures) {
      if (row.part == part && !figure.is_detail &&
          std::find(names.begin(), names.end(), figure.name) == names.end()) {
        names.push_back(figure.name);
      }
    }
  }
  const bool has_tables = std::any_of(rows.begin(), rows.end(), [&part](const EvalRow& row) {
    return row.part == part && !row.tables.empty();
  });
  Cells cells{{"model", "outliers", "codec", "policy", "bpe"}};
  if (has_tables) {
    cells[0].push_back("tables");
  }
  cells[0].insert(cells[0].end(), names.begin(), names.end());
  for (const EvalRow& row : rows) {
    if (row.part != part) {
      continue;
    }
    std::vector<std::string>& line = cells.emplace_back();
    line = {row.model,
            fmt::format("{:g}", row.outliers),
            row.codec,
            row.policy,
            fmt::format("{:.3f}", row.bpe)};
    if (has_tables) {
      line.push_back(row.tables.empty() ? "-" : row.tables);
    }
    for (const std::string& name : names) {
      const std::optional<double> value = row.Find(name);
      line.push_back(value ? FormatFigure(*value) : "-");
    }
  }
  return cells;
}

std::vector<std::string> PartsOf(const std::vector<EvalRow>& rows) {
  std::vector<std::string> parts;
  for (const EvalRow& row : rows) {
    if (std::find(parts.begin(), parts.end(), row.part) == parts.end()) {
      parts.push_back(row.part);
    }
  }
  return parts;
}

}  // namespace

std::optional<double> EvalRow::Find(std::string_view name) const {
  for (const Figure& figure : figures) {
    if (figure.name == name) {
      return figure.value;
    }
  }
  return std::nullopt;
}

std::vector<EvalRow> JoinRows(std::vector<EvalRow> rows) {
  std::vector<EvalRow> joined;
  for (EvalRow& row : rows) {
    const auto same = std::find_if(joined.begin(), joined.end(), [&row](const EvalRow& other) {
      return SameSubject(row, other);
    });
    if (same == joined.end()) {
      joined.push_back(std::move(row));
    } else {
      std::copy_if(row.figures.begin(),
                   row.figures.end(),
                   std::back_inserter(same->figures),
                   [same](const Figure& figure) { return !same->Find(figure.name); });
    }
  }
  return joined;
}

std::string FormatTables(const std::vector<EvalRow>& rows) {
  std::string text;
  for (const std::string& part : PartsOf(rows)) {
    const Cells cells = CellsOfPart(rows, part);
    Table table(cells[0]);
    for (size_t i = 1; i < cells.size(); ++i) {
      table.AddRow(cells[i]);
    }
    text += fmt::format("{}{}\n{}", text.empty() ? "" : "\n", part, table.Format());
  }
  return text;
}

std::string FormatMarkdown(const std::vector<EvalRow>& rows) {
  std::string text;
  for (const std::string& part : PartsOf(rows)) {
    const Cells cells = CellsOfPart(rows, part);
    text += fmt::format("{}## {}\n\n", text.empty() ? "" : "\n", part);
    for (size_t i = 0; i < cells.size(); ++i) {
      text += fmt::format("| {} |\n", fmt::join(cells[i], " | "));
      if (i == 0) {
        text += "|";
        for (size_t column = 0; column < cells[0].size(); ++column) {
          const std::string& name = cells[0][column];
          text += name == "model" || name == "codec" || name == "policy" || name == "tables"
                      ? "---|"
                      : "---:|";
        }
        text += "\n";
      }
    }
  }
  return text;
}

std::string FormatJson(const std::vector<EvalRow>& rows) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const EvalRow& row : rows) {
    nlohmann::ordered_json object = {{"part", row.part},
                                     {"model", row.model},
                                     {"outliers", row.outliers},
                                     {"codec", row.codec},
                                     {"policy", row.policy},
                                     {"bpe", row.bpe}};
    if (!row.tables.empty()) {
      object["tables"] = row.tables;
    }
    for (const Figure& figure : row.figures) {
      object[figure.name] = figure.value;
    }
    list.push_back(std::move(object));
  }
  return list.dump(1) + "\n";
}

}  // namespace varve::cli
