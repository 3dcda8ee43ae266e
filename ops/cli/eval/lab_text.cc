#include "ops/cli/eval/lab_text.h"

#include <algorithm>

#include <fmt/format.h>

#include "proto/base/file.h"

#include "ops/cli/eval/embedded.h"

namespace varve::cli {
namespace {

constexpr size_t kHeldApartShare = 3;  // one in so many bytes
constexpr const char* kSpace = " \t\r\n";

Result<std::string> ReadText(const std::string& file) {
  VARVE_TRY(std::string bytes, ReadFile(file));
  if (bytes.find_first_not_of(kSpace) == std::string::npos) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("the text '{}' is empty; give a file with words in it", file)};
  }
  return bytes;
}

void HoldApart(LabText* text) {
  const size_t wish = std::min(text->bytes.size() / kHeldApartShare, kMostHeldApartBytes);
  const size_t space = text->bytes.find_first_of(kSpace, text->bytes.size() - wish);
  if (space != std::string::npos) {
    text->held_apart = text->bytes.substr(space + 1);
    text->bytes.resize(space + 1);
  }
}

}  // namespace

Result<std::vector<LabText>> ReadLabTexts(const std::vector<std::string>& files,
                                          const std::vector<std::string>& calibration_files) {
  std::vector<LabText> texts;
  for (const std::string& file : files) {
    VARVE_TRY(std::string bytes, ReadText(file));
    texts.push_back({.name = file, .bytes = std::move(bytes), .held_apart = ""});
  }
  if (files.empty()) {
    texts.push_back(
        {.name = "Varve's documentation", .bytes = std::string(EmbeddedText()), .held_apart = ""});
  }
  if (calibration_files.empty()) {
    std::for_each(texts.begin(), texts.end(), [](LabText& text) { HoldApart(&text); });
  }
  for (size_t i = 0; i < calibration_files.size(); ++i) {
    VARVE_TRY(const std::string bytes, ReadText(calibration_files[i]));
    texts[i % texts.size()].held_apart += bytes;
  }
  return texts;
}

}  // namespace varve::cli
