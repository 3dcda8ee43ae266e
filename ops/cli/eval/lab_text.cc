#include "ops/cli/eval/lab_text.h"

#include <fmt/format.h>

#include "proto/base/file.h"

#include "ops/cli/eval/embedded.h"

namespace varve::cli {

Result<std::vector<LabText>> ReadLabTexts(const std::vector<std::string>& files) {
  std::vector<LabText> texts;
  for (const std::string& file : files) {
    VARVE_TRY(std::string bytes, ReadFile(file));
    if (bytes.find_first_not_of(" \t\r\n") == std::string::npos) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("the text '{}' is empty; give a file with words in it", file)};
    }
    texts.push_back({.name = file, .bytes = std::move(bytes)});
  }
  if (files.empty()) {
    texts.push_back({.name = "Varve's documentation", .bytes = std::string(EmbeddedText())});
  }
  return texts;
}

}  // namespace varve::cli
