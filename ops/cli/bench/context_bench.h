// `varve bench context`: one long document through HTTP, then questions about it on a server whose
// memory holds a fraction of its pages. The server runs in this process; the document and its facts
// are made up (ops/cli/bench/context_document.h).
//
//   context_ingest   until the document is ready and durable; not printed where it was there
//   already. Roof: operations of
//                    the layers at the measured fp32 rate.
//   context_tiers    where the context's bytes are, after the questions of the first attention.
//   context_exact,   the time from one token of an answer to the next, right answers, pages read,
//   context_select   stated error.
//                    Roof: the weights and the pages that are read, at the measured memory rate;
//                    pages that come from disk are not faster than that.
//
// With a data directory the ingest is resumable and the context stays, named "bench": a later run
// with the same text, length, questions and seed measures at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace varve::cli {

struct ContextBenchOptions {
  std::string model_dir;
  std::string weights = "auto";  // or int8
  std::string tables_file;       // calibrated tables; empty: those beside the model, if any
  int64_t tokens = int64_t{1} << 20;
  std::string text_file;  // what the document is made of; empty: Varve's own documentation
  std::string data_dir;   // empty: a temporary one
  double device_share =
      0.1;  // of the context's bytes that the device tier may hold; 0: there is none
  double host_share = 0.3;
  int64_t questions = 100;
  std::string codec = "int8";
  std::vector<std::string> attention = {"exact", "select"};
  int64_t budget_tokens = 0;  // of selective attention; 0: a 40th of the document
  int threads = 0;            // 0: all cores
  int workers = 1;
  uint64_t seed = 1;
  bool json = false;
};

// Prints to stdout, and progress to stderr. Returns the exit code (exit_code.h).
int RunContextBench(const ContextBenchOptions& options);

}  // namespace varve::cli
