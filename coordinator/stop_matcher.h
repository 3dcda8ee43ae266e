// Finds the first of a few stop strings in text that arrives in pieces, and holds back what may be
// the beginning of one.
//
// Threads: one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace varve {

class StopMatcher {
 public:
  // REQUIRES: no empty string.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Takes more text; returns what can be shown now. After a match this is the text before the stop
  // string, and everything behind it is dropped.
  std::string Push(std::string_view text);
  // Returns the text held back, for an answer that ends otherwise.
  std::string Flush();

  bool matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool matched_ = false;
};

}  // namespace varve
