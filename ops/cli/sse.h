// Reads a stream of server-sent events: bytes in any pieces go in, whole events come out.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace varve::cli {

class SseParser {
 public:
  // `on_event` gets the data of one event (several `data:` lines are joined by a newline); it
  // returns false to stop.
  using OnEvent = std::function<bool(std::string_view data)>;

  // Returns false when `on_event` did; the rest of `bytes` is dropped then.
  bool Feed(std::string_view bytes, const OnEvent& on_event);

 private:
  bool EndLine(const OnEvent& on_event);

  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool after_carriage_return_ = false;
};

}  // namespace varve::cli
