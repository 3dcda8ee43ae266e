// One generation as the engine takes it, and what comes back while it runs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/context_catalog.h"
#include "proto/base/result.h"
#include "proto/step_plan.h"
#include "proto/worker_group.h"

namespace varve {

enum class FinishReason {
  kStop,    // an end-of-text token or a stop string
  kLength,  // max_tokens reached
};

struct GeneratedToken {
  TokenLogprob drawn;
  std::vector<TokenLogprob> top;  // most likely first
};

// What one step brought to one request. The last event of a request has `finish` or `error`, never
// both.
struct GenerationEvent {
  std::string text;  // may be empty: part of a code point, or held back for a stop string
  std::vector<GeneratedToken> tokens;  // without the end-of-text token
  std::optional<FinishReason> finish;
  std::optional<Error> error;
  int64_t completion_tokens = 0;        // drawn so far, the end-of-text token included
  std::optional<PageReads> page_reads;  // so far; nothing if the request reads every page
};

struct GenerationRequest {
  std::vector<int32_t> prompt;    // behind the context, if there is one; not empty
  ContextLease context;           // empty: none
  bool reads_every_page = false;  // of the context, also where requests on it select pages
  std::optional<SelectiveAttention> selective;  // how it attends to the context
  int64_t max_tokens = 16;                      // at least 1
  SamplingParams sampling;
  int32_t num_top_logprobs = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;  // an end-of-text token has no text and ends nothing
  // Called on the engine's thread, must not block. Not called after the request was cancelled.
  std::function<void(GenerationEvent)> on_event;
};

}  // namespace varve
