#include "coordinator/context_expiry.h"

#include <chrono>
#include <utility>

namespace varve {

ContextExpiry::ContextExpiry(int interval_ms, std::function<void()> look)
    : interval_ms_(interval_ms), look_(std::move(look)), thread_([this] { Loop(); }) {}

ContextExpiry::~ContextExpiry() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

void ContextExpiry::Loop() {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(
      lock, std::chrono::milliseconds(interval_ms_), [this] { return stopping_; })) {
    lock.unlock();
    look_();
    lock.lock();
  }
}

}  // namespace varve
