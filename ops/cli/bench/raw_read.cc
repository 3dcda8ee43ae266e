#include "ops/cli/bench/raw_read.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/rng.h"

#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

constexpr size_t kAlignment = 4096;

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

 private:
  int fd_;
};

Error OsError(const std::string& what, const std::string& path, int error) {
  return Error{ErrorCode::kIoError,
               fmt::format("cannot {} {}: {}", what, path, std::strerror(error))};
}

}  // namespace

Result<void> WriteRandomFile(const std::string& path, uint64_t bytes) {
  const Descriptor file(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  if (file.get() < 0) {
    return OsError("create", path, errno);
  }
  constexpr size_t kPieceBytes = size_t{1} << 20;
  std::vector<uint64_t> piece(kPieceBytes / sizeof(uint64_t));
  Rng rng(1);
  for (uint64_t at = 0; at < bytes;) {
    for (uint64_t& word : piece) {
      word = rng.Next();
    }
    const size_t count = std::min<uint64_t>(kPieceBytes, bytes - at);
    const ssize_t written = ::write(file.get(), piece.data(), count);
    if (written < 0) {
      return OsError("write", path, errno);
    }
    at += static_cast<uint64_t>(written);
  }
  return ::fsync(file.get()) == 0 ? Result<void>() : OsError("sync", path, errno);
}

Result<double> ReadFileInBlocks(const std::string& path, size_t block_bytes, int threads) {
  int fd = ::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  const Descriptor file(fd);
  if (file.get() < 0) {
    return OsError("open", path, errno);
  }
  const uint64_t blocks = std::filesystem::file_size(path) / block_bytes;
  std::atomic<uint64_t> next{0};
  std::atomic<int> failure{0};
  const int64_t start_us = SystemClock().NowUs();
  std::vector<std::thread> team;
  for (int i = 0; i < threads; ++i) {
    team.emplace_back([&] {
      const std::unique_ptr<void, void (*)(void*)> buffer(
          std::aligned_alloc(kAlignment, block_bytes), std::free);
      for (uint64_t block = next++; block < blocks; block = next++) {
        const ssize_t count =
            ::pread(file.get(), buffer.get(), block_bytes, static_cast<off_t>(block * block_bytes));
        if (count != static_cast<ssize_t>(block_bytes)) {
          failure = count < 0 ? errno : EIO;
          return;
        }
      }
    });
  }
  for (std::thread& thread : team) {
    thread.join();
  }
  if (failure != 0) {
    return OsError("read", path, failure);
  }
  return static_cast<double>(SystemClock().NowUs() - start_us) * 1e-6;
}

std::optional<double> FioBytesPerSecond(const std::string& path, size_t block_bytes, int threads) {
  const uint64_t blocks = std::filesystem::file_size(path) / block_bytes;
  const uint64_t share = blocks / static_cast<uint64_t>(threads) * block_bytes;
  const std::string command = fmt::format(
      "fio --name=varve --filename='{}' --rw=read --bs={} --ioengine=psync --direct=1 --thread "
      "--numjobs={} --size={} --offset_increment={} --group_reporting --output-format=json "
      "2>/dev/null",
      path,
      block_bytes,
      threads,
      share,
      share);
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  if (pipe == nullptr) {
    return std::nullopt;
  }
  std::string output;
  std::array<char, 4096> buffer{};
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) {
    output.append(buffer.data(), count);
  }
  const nlohmann::json report = nlohmann::json::parse(output, nullptr, false);
  if (!report.is_object() || !report.contains("jobs") || report["jobs"].empty()) {
    return std::nullopt;
  }
  return report["jobs"][0].value("/read/bw_bytes"_json_pointer, 0.0);
}

}  // namespace varve::cli
