// Runs programs for the end-to-end tests: the real `varve` binary, mostly. A child dies with the
// test that started it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

#include "tests/support/temp_dir.h"

namespace varve {

// The `varve` of this build.
std::string VarveBinary();

struct RunOptions {
  std::string input;  // on the standard input
  std::map<std::string, std::string>
      environment;  // added to the test's own, which loses every VARVE_*
  int timeout_s = 120;
};

class ChildProcess {
 public:
  explicit ChildProcess(const std::vector<std::string>& arguments, const RunOptions& options = {});
  // Kills it if it still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // Waits for the end. Returns the exit code, 128 + N if signal N ended it, or -1 if it still runs
  // after `timeout_s`.
  int Wait(int timeout_s);
  bool Running() { return Wait(0) == -1; }

  // What it has written so far.
  std::string Out() const;
  std::string Err() const;

 private:
  TempDir files_;
  pid_t pid_ = -1;
  int exit_code_ = -1;
};

struct RunResult {
  int exit_code = -1;  // see ChildProcess::Wait
  std::string out;
  std::string err;
};

RunResult Run(const std::vector<std::string>& arguments, const RunOptions& options = {});
// `varve` with these arguments.
RunResult RunVarve(std::vector<std::string> arguments, const RunOptions& options = {});

}  // namespace varve
