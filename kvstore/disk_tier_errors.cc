// What goes wrong with the disk: named, counted, with what to do about it.
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "kvstore/disk_tier_rocks.h"
#include "proto/base/log.h"
#include "proto/base/units.h"

namespace varve {

Error RocksDiskTier::ToError(const rocksdb::Status& status,
                             Access access,
                             std::string_view what) const {
  ErrorCode code = ErrorCode::kInternal;
  DiskFault fault = access == Access::kRead ? DiskFault::kRead : DiskFault::kWrite;
  const std::string text = status.ToString();
  std::string advice;
  if (status.IsIOError() || status.IsNoSpace()) {
    code = ErrorCode::kIoError;
    if (status.IsNoSpace()) {
      fault = DiskFault::kNoSpace;
      advice = is_stopped_ ? "; free space on its filesystem, then restart the server"
                           : fmt::format("; writes go on some seconds after {} are free there",
                                         FormatBytes(write_buffer_bytes()));
    } else if (text.find(std::strerror(EROFS)) != std::string::npos) {
      fault = DiskFault::kReadOnly;
      advice = "; make its filesystem writable, then restart the server";
    } else if (access == Access::kWrite && is_stopped_) {
      advice = "; it can only be read until the server is restarted";
    }
  } else if (status.IsCorruption()) {
    code = ErrorCode::kPageCorrupt;
    fault = DiskFault::kCorrupt;
  } else if (status.IsNotFound() || status.IsPathNotFound()) {
    code = ErrorCode::kPageMissing;
  } else if (status.IsBusy() || status.IsTimedOut() || status.IsTryAgain() ||
             status.IsShutdownInProgress() || status.IsIncomplete() || status.IsAborted()) {
    code = ErrorCode::kUnavailable;
  }
  if (code == ErrorCode::kIoError || code == ErrorCode::kPageCorrupt) {
    ++errors_[static_cast<size_t>(fault)];
  }
  return Error{code, fmt::format("{}: cannot {}: {}{}", options_.directory, what, text, advice)};
}

bool RocksDiskTier::Resume(const rocksdb::Status& failure) {
  const rocksdb::Status resumed = db_->Resume();
  if (!resumed.ok()) {
    spdlog::warn(
        "{}: {}; going on failed: {}", options_.directory, failure.ToString(), resumed.ToString());
  }
  return resumed.ok();
}

}  // namespace varve
