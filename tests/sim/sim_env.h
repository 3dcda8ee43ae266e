// RocksDB's background jobs under the simulation's hand: flushes and compactions run one after
// another, on one thread, as soon as they are asked for, and whoever else wants to change a file
// waits until none is left. So file operations come in the same order each time.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include <rocksdb/env.h>

#include "tests/sim/sim_disk.h"

namespace varve {

class SimEnv final : public rocksdb::EnvWrapper {
 public:
  explicit SimEnv(const std::shared_ptr<SimDisk>& disk);
  ~SimEnv() override;

  const char* Name() const override { return "SimEnv"; }
  void Schedule(void (*function)(void*),
                void* argument,
                Priority priority,
                void* tag,
                void (*unschedule)(void*)) override;
  int UnSchedule(void* tag, Priority priority) override;

  // The database is open.
  void LetJobsRun();
  // It is about to be closed: compactions wait until they are taken back.
  void HoldCompactions();
  // Waits until no job is left. REQUIRES: the caller is no job.
  void Settle();

 private:
  struct Job {
    void (*function)(void*);
    void* argument;
    Priority priority;
    void* tag;
    void (*unschedule)(void*);
  };
  void RunJobs();
  bool IsReady() const;  // whether there is a job that may run

  const std::shared_ptr<SimDisk> disk_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;            // guarded by mutex_
  bool is_running_ = false;         // likewise: a job
  bool may_run_ = false;            // likewise
  bool holds_compactions_ = false;  // likewise
  bool is_over_ = false;            // likewise
  std::thread thread_;
};

}  // namespace varve
