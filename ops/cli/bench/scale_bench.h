// `varve bench scale`: attention alone, over contexts of up to tens of millions of tokens: one
// layer of a model's shape without the model, over several workers and three tiers. Keys, values
// and queries are made up (ops/cli/bench/scale_stream.h) and encoded as an ingest would.
//
//   scale_exact    one decode step that reads every page of the first N tokens. Roof: the bytes of
//   the pages that are read, at
//                  the measured memory rate; pages that come from disk are not faster than that.
//   scale_select   one that reads what selective attention chooses. Roof: the same of these pages.
//
// Each length is measured with device and host budgets of a share of its own bytes, and opens the
// stores anew. Every step looks for other needles than the one before. A step is one layer's: a
// model has num_layers of them, and its matrix products.
//
// The directory keeps the context: a later run with the same shape, codec and seed fills in only
// what is missing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/cli/bench/scale_stream.h"

namespace varve::cli {

struct ScaleBenchOptions {
  std::vector<int64_t> tokens = {int64_t{64} << 10, int64_t{1} << 20, int64_t{10} << 20};
  std::string data_dir;  // empty: a temporary one
  std::string codec = "int4";
  ScaleShape shape;
  std::vector<std::string> attention = {"exact", "select"};
  int64_t budget_tokens = 32768;  // of selective attention
  double epsilon = 0.05;
  double device_share = 0.1;  // of the length's bytes that the device tier may hold
  double host_share = 0.3;
  int workers = 8;
  int threads = 0;  // 0: all cores
  int runs = 5;     // the median of this many steps is printed
  uint64_t seed = 1;
  bool json = false;
};

// Prints to stdout, and progress to stderr. Returns the exit code (exit_code.h).
int RunScaleBench(const ScaleBenchOptions& options);

}  // namespace varve::cli
