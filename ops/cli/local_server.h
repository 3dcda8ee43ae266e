// A whole Varve in this process: N workers, the coordinator on top of them, an HTTP port. What
// `varve serve` runs, and what the commands that need no server start for themselves.
//
// Next: worker/local_worker_group.h, coordinator/coordinator.h
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "proto/base/result.h"
#include "proto/base/units.h"

namespace varve::cli {

struct LocalServerOptions {
  std::string model_dir;
  std::string weights = "auto";  // how they are held in memory: auto (as stored) or int8
  std::string tables_file;       // calibrated tables; empty: those in model_dir, if there are some
  int num_workers = 1;
  int num_threads = 0;  // 0: one for each core that this process may use
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any free one
  std::string data_dir;
  uint64_t host_budget_bytes = 4 * kGiB;
  uint64_t device_budget_bytes = 0;  // of a tier above the host's; 0: there is none
  uint64_t disk_budget_bytes = 0;    // 0: unlimited
  int64_t max_step_tokens = 512;
  int64_t max_running = 64;
  int64_t max_queue = 256;
  int64_t commit_tokens = 16384;  // an ingest is made durable at least this often
  double quality_share = 0.001;   // of steps and layers that the quality meter samples
};

class LocalServer {
 public:
  // Loads the model, recovers the contexts in data_dir (made if it is not there) and listens.
  // Errors: kBadModel, kUnsupported, kDataDirLocked, kIoError (the port is taken), those of
  // LoadCodecTables, each with what to do about it.
  static Result<std::unique_ptr<LocalServer>> Start(const LocalServerOptions& options);
  // Stops at once what still runs.
  virtual ~LocalServer() = default;

  virtual const std::string& url() const = 0;  // with the port that it listens on
  virtual const std::string& model_name() const = 0;
  virtual int64_t num_contexts_recovered() const = 0;

  // Refuses new requests, lets the running ones finish, commits ingests. Returns when that is done.
  virtual void Drain() = 0;
};

// The number of cores that this process may run on.
int NumUsableCores();

// ${XDG_DATA_HOME:-~/.local/share}/varve; the current directory's "varve-data" if there is no home.
std::string DefaultDataDir();

}  // namespace varve::cli
