#include "coordinator/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace varve {
namespace {

// Length of the longest suffix of `text` that is a proper prefix of `stop`.
size_t OverlapBytes(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) {
      return n;
    }
  }
  return 0;
}

}  // namespace

std::string StopMatcher::Push(std::string_view text) {
  if (matched_) {
    return {};
  }
  held_ += text;
  size_t first = std::string::npos;
  size_t overlap = 0;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
    overlap = std::max(overlap, OverlapBytes(held_, stop));
  }
  matched_ = first != std::string::npos;
  const size_t shown = matched_ ? first : held_.size() - overlap;
  std::string result = held_.substr(0, shown);
  held_ = matched_ ? std::string() : held_.substr(shown);
  return result;
}

std::string StopMatcher::Flush() {
  return std::exchange(held_, {});
}

}  // namespace varve
