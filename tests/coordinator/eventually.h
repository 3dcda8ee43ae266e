// Waits for what no condition variable tells.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace varve {

// Looks every millisecond; false after a minute.
inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 60000; ++i) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace varve
