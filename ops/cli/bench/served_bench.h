// `varve bench ingest` and `varve bench restart`: the served path as a user meets it, HTTP,
// tokenizer, commits and disk included. The server runs in this process on a temporary data
// directory; the text is made up, the same for every run.
//
//   ingest            a document of `tokens` tokens until it is ready and durable. Roof: the
//   multiplications and additions of
//                     the model's layers over these tokens, at the measured fp32 rate.
//   restart_reopen    from starting the server on that data directory until it serves. Roof: none
//   (-1), nothing of a
//                     document's size has to move.
//   restart_answer    the first token of an answer about the document right after: reads its pages
//   back. Roof: the same bytes
//                     at the measured memory rate.
//   recompute_answer  the first token of the same answer from the text alone: what loading saves.
//   Roof: as for ingest. Loading is worth it where restart_answer takes less, at every length where
//                     it does; there is no rule to set.
#pragma once

#include <cstdint>
#include <string>

namespace varve::cli {

struct ServedBenchOptions {
  std::string model_dir;
  std::string weights = "auto";  // or int8
  std::string tables_file;       // calibrated tables; empty: those beside the model, if any
  int64_t tokens = 4096;
  int workers = 1;
  int threads = 0;  // 0: all cores
  std::string codec = "int8";
  int runs = 5;  // the median of this many is printed
  bool json = false;
};

// Print to stdout and return the exit code (exit_code.h).
int RunIngestBench(const ServedBenchOptions& options);
int RunRestartBench(const ServedBenchOptions& options);

}  // namespace varve::cli
