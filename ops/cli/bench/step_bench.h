// `varve bench step`: the workers' step without coordinator and disk. Prefill of a document in
// chunks, and decode of single tokens behind it, for each number of workers; beside the roofs of
// the machine measured in the same run.
//
//   step_prefill   tokens/s over the whole document. Roof: multiplications and additions of the
//   layers over these tokens, at
//                  the measured fp32 rate.
//   step_decode    tokens/s at that length. Roof: the weights as they are held and the KV once, at
//   the measured memory rate.
//
// With `fill` the document is not computed: the cache is filled with made-up pages, and
// step_prefill is one chunk behind them, step_decode tokens behind that.
//
// The contestants, each number of workers with each form of weights, take turns run by run, so that
// other load on the machine meets all of them alike; the ratio of the last to the first is printed
// at the end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace varve::cli {

struct StepBenchOptions {
  std::string model_dir;
  std::vector<std::string> weights = {"auto"};  // forms in which weights are held
  std::string tables_file;                      // calibrated tables; empty: those beside the model
  std::vector<int64_t> tokens = {512, 4096};    // lengths
  std::vector<int> workers = {1, 8};
  int threads = 0;  // 0: all cores
  std::string codec = "int8";
  int64_t chunk_tokens = 512;
  int64_t decode_steps = 16;  // of each run
  int runs = 5;               // the median of this many is printed
  bool fill = false;
  bool json = false;
};

// Prints to stdout and returns the exit code (exit_code.h).
int RunStepBench(const StepBenchOptions& options);

}  // namespace varve::cli
