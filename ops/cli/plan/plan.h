// What `varve plan` works out: where the bytes of a context would lie, whether they fit, and how
// long steps and the ingest would take. No weights are read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/base/result.h"
#include "proto/kv_policy.h"
#include "worker/model_config.h"

#include "ops/cli/plan/machine.h"
#include "ops/cli/plan/prediction.h"

namespace varve::cli {

struct PlanRequest {
  ModelConfig model;
  double bytes_per_weight = 2;
  int64_t tokens = 0;
  int workers = 8;
  KvPolicy policy;  // its codecs: of pages in the device tier, in the host's, on disk
  // Of each worker; of all together where they share a machine. 0: what the machine has.
  uint64_t device_budget = 0;
  uint64_t host_budget = 0;
  int64_t budget_tokens = 32768;  // of selective attention
};

struct PlannedTier {
  std::string name;          // device, host, disk
  std::string codec;         // of the pages that are here and in no higher tier
  uint64_t budget = 0;       // 0: not known, or there is no such tier
  uint64_t other_bytes = 0;  // weights, key sketches
  uint64_t page_bytes = 0;   // of disk: of every page, as every page is there, too
  double share = 0;          // of the pages, that are read from here
};

struct Plan {
  uint64_t weight_bytes = 0;   // all workers together
  uint64_t context_bytes = 0;  // on disk, all workers together
  double bits_per_value = 0;
  std::vector<PlannedTier> tiers;  // of the worker that has most; of all where they share a machine
  bool fits = false;
  bool fits_selective = false;       // the sketches have room, too
  std::vector<std::string> reasons;  // why not
  std::vector<std::string> warnings;
  std::vector<std::string> advice;  // what would make it fit, or keep it in the highest tier
  PlannedStep exact;
  PlannedStep selective;
  double ingest_s = 0;
};

// Errors: kInvalidArgument (the policy).
Result<Plan> MakePlan(const PlanRequest& request, const Machine& machine);

}  // namespace varve::cli
