#include "ops/cli/sse.h"

namespace varve::cli {

bool SseParser::Feed(std::string_view bytes, const OnEvent& on_event) {
  for (const char byte : bytes) {
    const bool second_half = after_carriage_return_ && byte == '\n';
    after_carriage_return_ = byte == '\r';
    if (second_half) {
      continue;
    }
    if (byte != '\n' && byte != '\r') {
      line_.push_back(byte);
    } else if (!EndLine(on_event)) {
      return false;
    }
  }
  return true;
}

bool SseParser::EndLine(const OnEvent& on_event) {
  const std::string line = std::move(line_);
  line_.clear();
  if (line.empty()) {
    const bool dispatch = has_data_;
    const std::string data = std::move(data_);
    data_.clear();
    has_data_ = false;
    return !dispatch || on_event(data);
  }
  constexpr std::string_view kField = "data:";
  if (line.compare(0, kField.size(), kField) == 0) {
    std::string_view value = std::string_view(line).substr(kField.size());
    if (!value.empty() && value.front() == ' ') {
      value.remove_prefix(1);
    }
    if (has_data_) {
      data_.push_back('\n');
    }
    data_.append(value);
    has_data_ = true;
  }
  return true;
}

}  // namespace varve::cli
