// The seam to files: what Varve reads and writes outside RocksDB. Errors name the path and the
// operating system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "proto/base/result.h"

namespace varve {

// Reads a whole file. Refuses files over `max_bytes`.
Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes = uint64_t{1} << 32);

// Writes to a temporary file beside `path`, syncs it and renames it over `path`: readers see the
// old bytes or the new ones.
Result<void> WriteFileAtomically(const std::string& path, std::string_view bytes);

bool FileExists(const std::string& path);
Result<void> MakeDirectories(const std::string& path);

// A read-only memory map of a whole file. Pages are loaded on first touch and never copied to
// anonymous memory.
class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  virtual ~MappedFile() = default;
  virtual std::span<const std::byte> bytes() const = 0;
};

// An exclusive advisory lock on `path`, held while the object lives. A second holder gets
// kDataDirLocked, naming the process that has it.
class FileLock {
 public:
  static Result<std::unique_ptr<FileLock>> Acquire(const std::string& path);
  virtual ~FileLock() = default;
};

}  // namespace varve
