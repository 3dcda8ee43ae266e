#include "ops/cli/temporary_directory.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

namespace varve::cli {

Result<TemporaryDirectory> TemporaryDirectory::Make(const std::string& parent) {
  std::error_code failure;
  const std::filesystem::path where = parent.empty() ? std::filesystem::temp_directory_path(failure)
                                                     : std::filesystem::path(parent);
  std::string path = (where / "varve-XXXXXX").string();
  if (failure || ::mkdtemp(path.data()) == nullptr) {
    return Error{ErrorCode::kIoError,
                 fmt::format("cannot make the temporary directory {}{}",
                             path,
                             parent.empty() ? "; set TMPDIR" : "")};
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
