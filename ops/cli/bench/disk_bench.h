// `varve bench disk`: page records through the disk tier, beside what the disk gives without it.
//
//   disk_write  records of one size, layer by layer, until they are durable. Carries the write
//               amplification: bytes in files for each byte of records.
//   disk_read   the same records, a layer after the other as attention reads them: batches in key
//               order, the next one asked for while one is waited for.
//   raw_read    a file of as many bytes, read in blocks of a record's size by as many threads, past
//               the page cache where the file system allows: the roof of disk_read.
//   fio_read    the same by `fio`, if it is installed.
//
// Rows have record_bytes, bytes, io_threads, median_ms, mb_per_s (10^6), and roof_fraction, of
// the better of raw_read and fio_read.
#pragma once

#include <cstdint>
#include <string>

namespace varve::cli {

struct DiskBenchOptions {
  std::string directory;  // where its files are made and removed; empty: TMPDIR, or /tmp
  uint64_t total_bytes = uint64_t{512} << 20;
  uint64_t record_bytes = 144 * 1024;  // 128 tokens of 8 heads of 128 in int4
  int io_threads = 0;                  // 0: as `varve serve` has them
  int runs = 5;
  bool json = false;
};

// Prints to stdout and returns the exit code (exit_code.h).
int RunDiskBench(const DiskBenchOptions& options);

}  // namespace varve::cli
