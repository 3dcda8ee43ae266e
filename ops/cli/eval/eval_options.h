// What `varve eval` is asked to measure, and how much of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace varve::cli {

struct EvalOptions {
  std::string model_dir;
  std::string weights = "auto";  // or int8: what the model computes with
  std::string tables_file;       // calibrated tables of the model; empty: those beside it, if any
  std::vector<std::string> parts = {"divergence", "retrieval"};
  std::vector<std::string> codecs;  // empty: all that lose something
  std::vector<std::string> policies = {"full"};
  double max_bits = 0;                 // bits per value, all included; 0: any
  std::vector<double> outliers = {1};  // scales of the channels that are made outliers; 1: none
  // Each is one text, read from its beginning. Empty: Varve's own documentation.
  std::vector<std::string> text_files;
  // What tables are calibrated with, where the lab has to make some. Empty: what is held apart of
  // each text (lab_text.h).
  std::vector<std::string> calibration_files;
  int64_t calibration_tokens = 4096;  // of all texts together, as far as they reach

  // Divergence.
  int64_t tokens = 1536;    // of a sequence
  int64_t sequences = 2;    // of each text, one behind the other
  bool with_static = true;  // false: pseudo-decode only

  // Retrieval. Empty lengths: 4K and 32K, or what the model's positions hold.
  std::vector<int64_t> document_tokens;
  int64_t questions = 200;  // of each task and length, at least

  // Planted needles: the lengths at which they are looked for.
  std::vector<int64_t> planted_tokens = {65'536, 262'144, 1'048'576, 10'485'760};

  // The trade-off: bits for each value of all tokens.
  std::vector<double> budgets = {2.25, 1, 0.5};

  uint64_t seed = 1;
  int threads = 0;        // 0: all cores
  std::string json_file;  // empty: none
  std::string out_dir;    // empty: none
  double budget_s = 0;    // what the run is to take, to be printed beside what it took; 0: nothing
};

}  // namespace varve::cli
