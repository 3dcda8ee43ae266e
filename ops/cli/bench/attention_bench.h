// `varve bench attention`: Attend over encoded pages, for one query token (decode) and for a chunk
// of them (prefill), and one thread that encodes pages, beside the roofs of the machine measured in
// the same run. Results are compared with the reference before anything is timed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace varve {

struct AttentionBenchOptions {
  std::string codec = "all";                    // a codec's name, or all
  std::vector<int64_t> tokens = {4096, 65536};  // lengths of the context
  int32_t num_qo_heads = 32;
  int32_t num_kv_heads = 8;
  int32_t head_dim = 128;
  int32_t page_tokens = 128;
  int32_t prefill_queries = 512;       // 0: decode only
  int64_t prefill_max_tokens = 16384;  // longer contexts are measured for decode only
  int threads = 2;
  int runs = 5;       // the median of this many is printed
  bool json = false;  // one object per line instead of a table
};

// Prints to stdout. Returns the exit code: 2 if the options make no sense (said on stderr), 1 if a
// result is wrong.
int RunAttentionBench(const AttentionBenchOptions& options);

}  // namespace varve
