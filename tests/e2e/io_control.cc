#include "tests/e2e/io_control.h"

#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/base/check.h"

namespace varve {

IoControl::IoControl(std::string directory) : directory_(std::move(directory)) {
  const int fd = ::open(files_.File("control").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  VARVE_CHECK(fd >= 0 && ::ftruncate(fd, sizeof(IoShimControl)) == 0);
  void* memory = ::mmap(nullptr, sizeof(IoShimControl), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  VARVE_CHECK(memory != MAP_FAILED);
  ::close(fd);
  control_ = static_cast<IoShimControl*>(memory);  // all zero: nothing happens
}

IoControl::~IoControl() {
  ::munmap(control_, sizeof(IoShimControl));
}

std::map<std::string, std::string> IoControl::Environment() const {
  return {{"LD_PRELOAD", VARVE_IO_SHIM_LIBRARY},
          {"VARVE_IO_SHIM", files_.File("control")},
          {"VARVE_IO_SHIM_DIR", directory_}};
}

void IoControl::KillAt(IoSet set, IoMoment moment, int64_t n) {
  control_->killed = 0;
  control_->kill_moment = moment;
  control_->kill_set = set;
  control_->kill_in = n;
}

void IoControl::Fail(IoSet set, int error) {
  control_->fail_errno = error;
  control_->fail_set = set;
}

void IoControl::Delay(IoSet set, int64_t us) {
  control_->delay_us = us;
  control_->delay_set = set;
}

void IoControl::Heal() {
  control_->fail_set = 0;
  control_->delay_set = 0;
}

int64_t IoControl::Count(IoFile file, IoOp op) const {
  return control_->counts[static_cast<size_t>(file) * kNumIoOps + static_cast<size_t>(op)];
}

int64_t IoControl::Count(IoOp op) const {
  int64_t sum = 0;
  for (size_t file = 0; file < kNumIoFiles; ++file) {
    sum += Count(static_cast<IoFile>(file), op);
  }
  return sum;
}

}  // namespace varve
