// The text that predictions and documents of the lab are made from.
#pragma once

#include <string>
#include <vector>

#include "proto/base/result.h"

namespace varve::cli {

struct LabText {
  std::string name;  // the file's, for messages
  std::string bytes;
};

// The files' texts; without files one text, the prose of Varve's own documentation as it was built
// in, which no published model has learnt by heart. kIoError, and kInvalidArgument for an empty
// file.
Result<std::vector<LabText>> ReadLabTexts(const std::vector<std::string>& files);

}  // namespace varve::cli
