// Aligned columns of text: the first to the left, and columns of figures to the right.
#pragma once

#include <string>
#include <vector>

namespace varve::cli {

class Table {
 public:
  // `header` may be empty: none.
  explicit Table(std::vector<std::string> header);

  // REQUIRES: as many cells as the header, or as the first row if there is no header.
  void AddRow(std::vector<std::string> row);

  // Every line ends in a newline. Under a header, a column whose cells all begin with a digit or
  // are "-" is aligned to the right.
  std::string Format() const;

 private:
  std::vector<std::vector<std::string>> rows_;
  bool has_header_;
};

}  // namespace varve::cli
