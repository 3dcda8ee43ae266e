// A test's hand on the files of the process under test: kills it at an exact file operation, makes
// operations fail or slow, and counts them (io_shim.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tests/e2e/io_shim.h"
#include "tests/support/temp_dir.h"

namespace varve {

class IoControl {
 public:
  // Of the files below `directory`.
  explicit IoControl(std::string directory);
  ~IoControl();
  IoControl(const IoControl&) = delete;
  IoControl& operator=(const IoControl&) = delete;

  // What the process has to be started with.
  std::map<std::string, std::string> Environment() const;

  // The n-th operation of the set from now on kills the process with SIGKILL.
  void KillAt(IoSet set, IoMoment moment, int64_t n);
  void Disarm() { control_->kill_in = 0; }
  // Whether it came to that.
  bool killed() const { return control_->killed != 0; }

  // All operations of the set fail until further notice.
  void Fail(IoSet set, int error);
  // All take this much longer.
  void Delay(IoSet set, int64_t us);
  void Heal();

  int64_t num_failed() const { return control_->num_failed; }
  int64_t num_delayed() const { return control_->num_delayed; }
  int64_t Count(IoFile file, IoOp op) const;
  // Of all files.
  int64_t Count(IoOp op) const;

 private:
  const std::string directory_;
  TempDir files_;
  IoShimControl* control_;
};

}  // namespace varve
