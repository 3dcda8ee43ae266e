// How fast a file can be read in blocks: by threads of this process, and by `fio`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "proto/base/result.h"

namespace varve::cli {

// Writes a file of `bytes` bytes that do not compress, and syncs it. kIoError.
Result<void> WriteRandomFile(const std::string& path, uint64_t bytes);

// Reads all whole blocks of the file once, in order, each thread the next that no one has. Past the
// page cache if the file system has direct reads. Returns the seconds. kIoError.
Result<double> ReadFileInBlocks(const std::string& path, size_t block_bytes, int threads);

// Bytes per second of `fio` over the same file: sequential reads of `block_bytes`, `threads` jobs
// of a share of the file each. Nothing if fio is not installed or fails.
std::optional<double> FioBytesPerSecond(const std::string& path, size_t block_bytes, int threads);

}  // namespace varve::cli
