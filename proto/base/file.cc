#include "proto/base/file.h"

#include <filesystem>

namespace varve {

bool FileExists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

Result<void> MakeDirectories(const std::string& path) {
  std::error_code failure;
  std::filesystem::create_directories(path, failure);
  if (failure) {
    return Error{ErrorCode::kIoError,
                 "cannot create the directory " + path + ": " + failure.message()};
  }
  return {};
}

}  // namespace varve
