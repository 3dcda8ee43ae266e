#include "ops/cli/table.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "proto/base/check.h"

namespace varve::cli {
namespace {

bool BeginsWithDigit(const std::string& cell) {
  return !cell.empty() && std::isdigit(static_cast<unsigned char>(cell.front())) != 0;
}

}  // namespace

Table::Table(std::vector<std::string> header) : has_header_(!header.empty()) {
  if (has_header_) {
    rows_.push_back(std::move(header));
  }
}

void Table::AddRow(std::vector<std::string> row) {
  VARVE_CHECK(rows_.empty() || row.size() == rows_.front().size());
  rows_.push_back(std::move(row));
}

std::string Table::Format() const {
  if (rows_.empty()) {
    return "";
  }
  const size_t num_columns = rows_.front().size();
  std::vector<size_t> widths(num_columns, 0);
  std::vector<bool> is_figure(num_columns, has_header_ && rows_.size() > 1);
  is_figure[0] = false;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < num_columns; ++c) {
      const std::string& cell = rows_[r][c];
      widths[c] = std::max(widths[c], cell.size());
      const bool in_body = r > 0 || !has_header_;
      if (in_body && cell != "-" && !BeginsWithDigit(cell)) {
        is_figure[c] = false;
      }
    }
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t c = 0; c < num_columns; ++c) {
      line += c > 0 ? "  " : "";
      line += is_figure[c] ? fmt::format("{:>{}}", row[c], widths[c])
                           : fmt::format("{:<{}}", row[c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace varve::cli
