#include "tests/sim/sim_env.h"

#include <algorithm>
#include <chrono>

#include <rocksdb/system_clock.h>

#include "proto/base/check.h"

namespace varve {
namespace {

// Longer than any job takes: something waits for itself.
constexpr auto kDeadlock = std::chrono::seconds(120);

thread_local bool is_job = false;
thread_local bool is_compaction = false;

// After an error RocksDB's jobs sleep for a second before they end.
class SleeplessClock final : public rocksdb::SystemClockWrapper {
 public:
  SleeplessClock() : SystemClockWrapper(rocksdb::SystemClock::Default()) {}
  const char* Name() const override { return "SleeplessClock"; }
  void SleepForMicroseconds(int) override {}
};

}  // namespace

SimEnv::SimEnv(const std::shared_ptr<SimDisk>& disk)
    : EnvWrapper(rocksdb::NewCompositeEnv(disk)), disk_(disk), thread_([this] { RunJobs(); }) {
  system_clock_ = std::make_shared<SleeplessClock>();
  disk_->SetGate([this] {
    if (!is_job) {
      Settle();
    }
    return !is_compaction;
  });
}

SimEnv::~SimEnv() {
  disk_->SetGate({});
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SimEnv::Schedule(void (*function)(void*),
                      void* argument,
                      Priority priority,
                      void* tag,
                      void (*unschedule)(void*)) {
  {
    const std::lock_guard lock(mutex_);
    const auto at =
        priority == Priority::HIGH
            ? std::find_if(jobs_.begin(),
                           jobs_.end(),
                           [](const Job& job) { return job.priority != Priority::HIGH; })
            : jobs_.end();
    jobs_.insert(at, {function, argument, priority, tag, unschedule});
  }
  changed_.notify_all();
}

int SimEnv::UnSchedule(void* tag, Priority priority) {
  std::deque<Job> removed;
  {
    const std::lock_guard lock(mutex_);
    const auto kept = std::stable_partition(jobs_.begin(), jobs_.end(), [&](const Job& job) {
      return job.tag != tag || job.priority != priority;
    });
    removed.assign(kept, jobs_.end());
    jobs_.erase(kept, jobs_.end());
  }
  for (const Job& job : removed) {
    if (job.unschedule != nullptr) {
      job.unschedule(job.argument);
    }
  }
  changed_.notify_all();
  return static_cast<int>(removed.size());
}

void SimEnv::LetJobsRun() {
  {
    const std::lock_guard lock(mutex_);
    may_run_ = true;
  }
  changed_.notify_all();
}

void SimEnv::HoldCompactions() {
  const std::lock_guard lock(mutex_);
  holds_compactions_ = true;
}

// Compactions come last. REQUIRES: mutex_ is held.
bool SimEnv::IsReady() const {
  return may_run_ && !jobs_.empty() &&
         (!holds_compactions_ || jobs_.front().priority == Priority::HIGH);
}

void SimEnv::RunJobs() {
  is_job = true;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return is_over_ || IsReady(); });
    if (is_over_) {
      return;
    }
    const Job job = jobs_.front();
    jobs_.pop_front();
    is_running_ = true;
    is_compaction = job.priority != Priority::HIGH;
    lock.unlock();
    job.function(job.argument);
    lock.lock();
    is_running_ = false;
    changed_.notify_all();
  }
}

void SimEnv::Settle() {
  std::unique_lock lock(mutex_);
  VARVE_CHECK(changed_.wait_for(lock, kDeadlock, [this] { return !IsReady() && !is_running_; }));
}

}  // namespace varve
