#include "proto/base/trace.h"

#include <algorithm>
#include <mutex>

#include "proto/base/clock.h"

namespace varve {
namespace {

struct Recorder {
  std::mutex mutex;
  std::vector<TraceEvent> events;  // guarded by mutex
};

Recorder& TheRecorder() {
  static Recorder recorder;
  return recorder;
}

}  // namespace

namespace internal {

std::atomic<bool> trace_enabled = false;

TraceEvent TraceBegin(std::string_view name) {
  static std::atomic<int64_t> order = 0;
  return {name, order.fetch_add(1), SystemClock().NowUs(), 0};
}

void TraceEnd(TraceEvent event) {
  event.end_us = SystemClock().NowUs();
  Recorder& recorder = TheRecorder();
  const std::lock_guard lock(recorder.mutex);
  recorder.events.push_back(event);
}

}  // namespace internal

void StartTrace() {
  Recorder& recorder = TheRecorder();
  const std::lock_guard lock(recorder.mutex);
  recorder.events.clear();
  internal::trace_enabled = true;
}

std::vector<TraceEvent> StopTrace() {
  internal::trace_enabled = false;
  Recorder& recorder = TheRecorder();
  const std::lock_guard lock(recorder.mutex);
  std::sort(recorder.events.begin(),
            recorder.events.end(),
            [](const TraceEvent& a, const TraceEvent& b) { return a.begin_order < b.begin_order; });
  return std::move(recorder.events);
}

}  // namespace varve
