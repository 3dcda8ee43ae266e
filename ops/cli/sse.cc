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
  if (line_.empty()) {
    const bool go_on = !has_data_ || on_event(data_);
    data_.clear();
    has_data_ = false;
    return go_on;
  }
  constexpr std::string_view kField = "data:";
  std::string_view line = line_;
  if (line.substr(0, kField.size()) == kField) {
    line.remove_prefix(kField.size());
    if (!line.empty() && line.front() == ' ') {
      line.remove_prefix(1);
    }
    if (has_data_) {
      data_.push_back('\n');
    }
    data_.append(line);
    has_data_ = true;
  }
  line_.clear();
  return true;
}

}  // namespace varve::cli
