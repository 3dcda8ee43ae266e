// What a test and the process under test share about the files below one directory: which operation
// on which file kills the process, which ones fail, which ones are slow, and how many there were.
//
// Method: a library that the dynamic loader puts before libc (LD_PRELOAD) sees each open, write,
// sync, rename, deletion and read of the unchanged `varve` and looks here first. So points are
// exact (the n-th operation of a kind, before it, half done, or behind it), nothing in the product
// knows of them, and what is tested is the binary that is shipped.
//
// Ownership: tests map it through IoControl (io_control.h), the library through the environment:
// VARVE_IO_SHIM names the file that is mapped, VARVE_IO_SHIM_DIR the directory.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace varve {

// Files by what RocksDB keeps in them; kOther: options, locks, the format line.
enum class IoFile : uint8_t { kNone, kBlob, kTable, kLog, kManifest, kCurrent, kOther };
inline constexpr size_t kNumIoFiles = 7;

enum class IoOp : uint8_t { kCreate, kWrite, kSync, kRename, kUnlink, kRead };
inline constexpr size_t kNumIoOps = 6;

// A set of (file, operation).
using IoSet = uint64_t;
constexpr IoSet SetOf(IoFile file, IoOp op) {
  return IoSet{1} << (static_cast<size_t>(file) * kNumIoOps + static_cast<size_t>(op));
}
// An operation on any file.
constexpr IoSet SetOf(IoOp op) {
  IoSet set = 0;
  for (size_t file = 1; file < kNumIoFiles; ++file) {
    set |= SetOf(static_cast<IoFile>(file), op);
  }
  return set;
}
// Everything that changes the directory.
inline constexpr IoSet kIoWrites = SetOf(IoOp::kCreate) | SetOf(IoOp::kWrite) | SetOf(IoOp::kSync) |
                                   SetOf(IoOp::kRename) | SetOf(IoOp::kUnlink);

enum class IoMoment : int32_t { kBefore, kHalfDone, kAfter };

struct IoShimControl {
  std::atomic<int64_t> counts[kNumIoFiles * kNumIoOps];

  std::atomic<IoSet> kill_set;
  std::atomic<IoMoment> kill_moment;
  std::atomic<int64_t> kill_in;  // operations of the set until death; 0: none
  std::atomic<int32_t> killed;   // 1: it came to that

  std::atomic<IoSet> fail_set;
  std::atomic<int32_t> fail_errno;
  std::atomic<int64_t> num_failed;

  std::atomic<IoSet> delay_set;
  std::atomic<int64_t> delay_us;
  std::atomic<int64_t> num_delayed;
};
static_assert(std::atomic<int64_t>::is_always_lock_free, "shared between processes");

}  // namespace varve
