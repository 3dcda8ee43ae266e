#include "ops/cli/temporary_directory.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

namespace varve::cli {

Result<TemporaryDirectory> TemporaryDirectory::Make() {
  std::error_code failure;
  std::string path = (std::filesystem::temp_directory_path(failure) / "varve-XXXXXX").string();
  if (failure || ::mkdtemp(path.data()) == nullptr) {
    return Error{ErrorCode::kIoError,
                 fmt::format("cannot make the temporary directory {}; set TMPDIR", path)};
  }
  return TemporaryDirectory(std::move(path));
}

TemporaryDirectory::~TemporaryDirectory() {
  if (!path_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
}

}  // namespace varve::cli
