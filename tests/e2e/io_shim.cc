// The library behind io_shim.h. Loaded into a process that knows nothing of it: it must not fail,
// and passes on everything that is not below the directory.
#include "tests/e2e/io_shim.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <string_view>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

namespace varve {
namespace {

constexpr size_t kMaxDescriptors = 4096;

IoShimControl* control = nullptr;
std::string_view directory;
std::array<std::atomic<IoFile>, kMaxDescriptors> open_files{};

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

__attribute__((constructor)) void Attach() {
  const char* path = std::getenv("VARVE_IO_SHIM");
  const char* below = std::getenv("VARVE_IO_SHIM_DIR");
  if (path == nullptr || below == nullptr) {
    return;
  }
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  void* memory = ::mmap(nullptr, sizeof(IoShimControl), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory == MAP_FAILED) {
    std::abort();
  }
  directory = below;
  control = static_cast<IoShimControl*>(memory);
}

IoFile FileOf(const char* path) {
  const std::string_view name = path;
  if (control == nullptr || !name.starts_with(directory)) {
    return IoFile::kNone;
  }
  const std::string_view last = name.substr(name.rfind('/') + 1);
  if (last.ends_with(".blob")) {
    return IoFile::kBlob;
  }
  if (last.ends_with(".sst")) {
    return IoFile::kTable;
  }
  if (last.ends_with(".log")) {
    return IoFile::kLog;
  }
  if (last.starts_with("MANIFEST-")) {
    return IoFile::kManifest;
  }
  if (last.starts_with("LOG")) {
    return IoFile::kNone;  // what RocksDB says to people
  }
  return last == "CURRENT" || last.ends_with(".dbtmp") ? IoFile::kCurrent : IoFile::kOther;
}

IoFile FileOf(int fd) {
  return control == nullptr || fd < 0 || static_cast<size_t>(fd) >= kMaxDescriptors
             ? IoFile::kNone
             : open_files[static_cast<size_t>(fd)].load();
}

void Note(int fd, IoFile file) {
  if (fd >= 0 && static_cast<size_t>(fd) < kMaxDescriptors) {
    open_files[static_cast<size_t>(fd)] = file;
  }
}

[[noreturn]] void Die() {
  control->killed = 1;
  ::kill(::getpid(), SIGKILL);
  while (true) {
    ::pause();
  }
}

// What is to become of one operation.
struct Verdict {
  int error = 0;
  bool dies = false;
  IoMoment moment = IoMoment::kBefore;

  bool at(IoMoment when) const { return dies && moment == when; }
};

Verdict Judge(IoFile file, IoOp op) {
  Verdict verdict;
  if (file == IoFile::kNone) {
    return verdict;
  }
  const IoSet one = SetOf(file, op);
  ++control->counts[static_cast<size_t>(file) * kNumIoOps + static_cast<size_t>(op)];
  if ((control->delay_set & one) != 0) {
    const int64_t us = control->delay_us;
    const timespec time{us / 1'000'000, us % 1'000'000 * 1000};
    ++control->num_delayed;
    ::nanosleep(&time, nullptr);
  }
  if ((control->fail_set & one) != 0) {
    verdict.error = control->fail_errno;
    ++control->num_failed;
  }
  if ((control->kill_set & one) != 0 && control->kill_in > 0 && --control->kill_in == 0) {
    verdict.dies = true;
    verdict.moment = control->kill_moment;
  }
  if (verdict.at(IoMoment::kBefore)) {
    Die();
  }
  return verdict;
}

// Runs a call as its verdict says. `half` does half of it, where there is such a thing.
template <typename Call, typename Half>
auto Run(const Verdict& verdict, const Call& call, const Half& half) -> decltype(call()) {
  if (verdict.error != 0) {
    errno = verdict.error;
    return -1;
  }
  if (verdict.at(IoMoment::kHalfDone)) {
    half();
    Die();
  }
  const auto result = call();
  if (verdict.at(IoMoment::kAfter)) {
    Die();
  }
  return result;
}

constexpr auto kNothing = [] {};

}  // namespace
}  // namespace varve

using varve::FileOf;
using varve::IoFile;
using varve::IoOp;
using varve::Judge;
using varve::Run;

extern "C" {

int open(const char* path, int flags, ...) {
  static const auto next = varve::Next<int (*)(const char*, int, ...)>("open");
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  const IoFile file = FileOf(path);
  const auto call = [&] { return next(path, flags, mode); };
  const int fd =
      (flags & O_CREAT) == 0 ? call() : Run(Judge(file, IoOp::kCreate), call, varve::kNothing);
  varve::Note(fd, file);
  return fd;
}

int close(int fd) {
  static const auto next = varve::Next<int (*)(int)>("close");
  varve::Note(fd, IoFile::kNone);
  return next(fd);
}

ssize_t write(int fd, const void* bytes, size_t size) {
  static const auto next = varve::Next<ssize_t (*)(int, const void*, size_t)>("write");
  return Run(
      Judge(FileOf(fd), IoOp::kWrite),
      [&] { return next(fd, bytes, size); },
      [&] { (void)!next(fd, bytes, size / 2); });
}

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t at) {
  static const auto next = varve::Next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  return Run(
      Judge(FileOf(fd), IoOp::kWrite),
      [&] { return next(fd, bytes, size, at); },
      [&] { (void)!next(fd, bytes, size / 2, at); });
}

ssize_t pread(int fd, void* bytes, size_t size, off_t at) {
  static const auto next = varve::Next<ssize_t (*)(int, void*, size_t, off_t)>("pread");
  return Run(
      Judge(FileOf(fd), IoOp::kRead), [&] { return next(fd, bytes, size, at); }, varve::kNothing);
}

int fsync(int fd) {
  static const auto next = varve::Next<int (*)(int)>("fsync");
  return Run(
      Judge(FileOf(fd), IoOp::kSync), [&] { return next(fd); }, varve::kNothing);
}

int fdatasync(int fd) {
  static const auto next = varve::Next<int (*)(int)>("fdatasync");
  return Run(
      Judge(FileOf(fd), IoOp::kSync), [&] { return next(fd); }, varve::kNothing);
}

int rename(const char* from, const char* to) {
  static const auto next = varve::Next<int (*)(const char*, const char*)>("rename");
  return Run(
      Judge(FileOf(to), IoOp::kRename), [&] { return next(from, to); }, varve::kNothing);
}

int unlink(const char* path) {
  static const auto next = varve::Next<int (*)(const char*)>("unlink");
  return Run(
      Judge(FileOf(path), IoOp::kUnlink), [&] { return next(path); }, varve::kNothing);
}

}  // extern "C"
