// Trace spans of one process: which part worked when. Off by default; then a span costs one relaxed
// load.
//
// The test that follows one token through the system records the spans and asserts their order, so
// that the reading path of ARCHITECTURE.md cannot go stale. Span names are the file that does the
// work, for example "worker/step".
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

namespace varve {

struct TraceEvent {
  std::string_view name;  // a string literal
  int64_t begin_order;    // counts up with each span that begins: ties of the clock do not matter
  int64_t begin_us;
  int64_t end_us;
};

// Starts recording; earlier events are forgotten.
void StartTrace();
// Stops recording and returns the events in the order in which they began.
std::vector<TraceEvent> StopTrace();

namespace internal {
extern std::atomic<bool> trace_enabled;
TraceEvent TraceBegin(std::string_view name);
void TraceEnd(TraceEvent event);
}  // namespace internal

// Records the time from construction to destruction. `name` must be a string literal.
class TraceSpan {
 public:
  explicit TraceSpan(std::string_view name)
      : on_(internal::trace_enabled.load(std::memory_order_relaxed)) {
    if (on_) {
      event_ = internal::TraceBegin(name);
    }
  }
  ~TraceSpan() {
    if (on_) {
      internal::TraceEnd(event_);
    }
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  bool on_;
  TraceEvent event_{};
};

}  // namespace varve
