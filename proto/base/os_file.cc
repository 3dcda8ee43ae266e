#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/file.h"

namespace varve {
namespace {

Error OsError(std::string_view what, const std::string& path) {
  const int reason = errno;
  const ErrorCode code = reason == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIoError;
  return Error{code, fmt::format("cannot {} {}: {}", what, path, std::strerror(reason))};
}

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

class OsMappedFile final : public MappedFile {
 public:
  OsMappedFile(void* address, size_t size) : address_(address), size_(size) {}
  ~OsMappedFile() override {
    if (size_ > 0) {
      ::munmap(address_, size_);
    }
  }
  std::span<const std::byte> bytes() const override {
    return {static_cast<const std::byte*>(address_), size_};
  }

 private:
  void* address_;
  size_t size_;
};

class OsFileLock final : public FileLock {
 public:
  explicit OsFileLock(int fd) : fd_(fd) {}

 private:
  Descriptor fd_;
};

Result<void> WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return OsError("write", path);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    return OsError("open", path);
  }
  std::string bytes;
  std::string buffer(size_t{1} << 18, '\0');
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) {
      if (errno == EINTR) {
        continue;
      }
      return OsError("read", path);
    }
    if (got == 0) {
      return bytes;
    }
    bytes.append(buffer.data(), static_cast<size_t>(got));
    if (bytes.size() > max_bytes) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("{} is larger than the {} bytes allowed here", path, max_bytes)};
    }
  }
}

Result<void> WriteFileAtomically(const std::string& path, std::string_view bytes) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::getpid());
  Descriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.get() < 0) {
    return OsError("create", temporary);
  }
  if (auto written = WriteAll(fd.get(), bytes, temporary); !written) {
    ::unlink(temporary.c_str());
    return written;
  }
  if (::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
    Error failure = OsError("replace", path);
    ::unlink(temporary.c_str());
    return failure;
  }
  return {};
}

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (fd.get() < 0 || ::fstat(fd.get(), &info) != 0) {
    return OsError("open", path);
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* address = nullptr;
  if (size > 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (address == MAP_FAILED) {
      return OsError("map", path);
    }
  }
  return std::shared_ptr<const MappedFile>(std::make_shared<OsMappedFile>(address, size));
}

Result<std::unique_ptr<FileLock>> FileLock::Acquire(const std::string& path) {
  Descriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (fd.get() < 0) {
    return OsError("open", path);
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const ssize_t got = ::pread(fd.get(), holder, sizeof(holder) - 1, 0);
    return Error{ErrorCode::kDataDirLocked,
                 fmt::format("{} is in use by process {}; stop it or choose another data directory",
                             path,
                             got > 0 ? holder : "(unknown)")};
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(fd.get(), 0) != 0 ||
      ::pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return OsError("write", path);
  }
  return std::unique_ptr<FileLock>(std::make_unique<OsFileLock>(fd.release()));
}

}  // namespace varve
