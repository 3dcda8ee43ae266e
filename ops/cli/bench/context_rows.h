// What `varve bench context` prints.
#pragma once

#include <cstdint>
#include <string>

#include "ops/cli/api_client.h"
#include "ops/cli/bench/lookups.h"

namespace varve::cli {

// What all rows of a run have in common.
struct ContextBenchShape {
  std::string model;
  std::string codec;
  double bpe = 0;  // bits per value, everything durable included
  int64_t tokens = 0;
  int threads = 0;
  int workers = 0;
  bool json = false;
};

struct IngestFigure {
  int64_t tokens = 0;  // that were computed, all or those that were missing
  double seconds = 0;
  double roof_seconds = 0;
};
void PrintIngest(const ContextBenchShape& shape, const IngestFigure& figure);

// Where the context's bytes are, per token and by tier.
void PrintTiers(const ContextBenchShape& shape,
                const ContextInfo& context,
                uint64_t device_budget_bytes,
                uint64_t host_budget_bytes);

// roof_seconds: of one decode step. REQUIRES: results of at least one question and one gap.
void PrintLookups(const ContextBenchShape& shape,
                  const std::string& attention,
                  const LookupResults& results,
                  double roof_seconds);

}  // namespace varve::cli
