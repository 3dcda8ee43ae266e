// The text that predictions and documents of the lab are made from, and the text that tables are
// calibrated with, which is none of it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "proto/base/result.h"

namespace varve::cli {

// Of each text, at most so much is held apart: its last third, up to this.
inline constexpr size_t kMostHeldApartBytes = 24'000;

struct LabText {
  std::string name;        // the file's, for messages
  std::string bytes;       // what is measured on
  std::string held_apart;  // what tables are calibrated with
};

// The files' texts; without files one text, the prose of Varve's own documentation as it was built
// in, which no published model has learnt by heart. The end of each is held apart, behind a
// space or the end of a line. With `calibration_files` these are what is held apart, the first with
// the first text and so on, and texts stay whole. kIoError, and kInvalidArgument for an empty file.
Result<std::vector<LabText>> ReadLabTexts(const std::vector<std::string>& files,
                                          const std::vector<std::string>& calibration_files);

}  // namespace varve::cli
