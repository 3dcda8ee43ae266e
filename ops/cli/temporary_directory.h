// A directory that goes away with the object, for commands that keep nothing.
#pragma once

#include <string>
#include <utility>

#include "proto/base/result.h"

namespace varve::cli {

class TemporaryDirectory {
 public:
  // In `parent`, which is there; empty: in TMPDIR, or /tmp. kIoError.
  static Result<TemporaryDirectory> Make(const std::string& parent = "");
  ~TemporaryDirectory();
  TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryDirectory& operator=(TemporaryDirectory&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }

  const std::string& path() const { return path_; }

 private:
  explicit TemporaryDirectory(std::string path) : path_(std::move(path)) {}

  std::string path_;  // empty: moved from
};

}  // namespace varve::cli
