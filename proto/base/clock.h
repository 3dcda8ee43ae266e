// The seam to time. Production code asks a Clock; tests and the simulation give their own.
#pragma once

#include <cstdint>

namespace varve {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowUs() const = 0;      // monotonic microseconds since an arbitrary start
  virtual int64_t UnixTimeS() const = 0;  // wall-clock seconds since 1970, for what users see
};

// The operating system's clock; lives as long as the process.
const Clock& SystemClock();

// Processor time that the calling thread has used, in microseconds.
int64_t ThreadCpuUs();

}  // namespace varve
