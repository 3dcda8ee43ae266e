#include "coordinator/scheduler.h"

#include <algorithm>

#include "proto/base/trace.h"

namespace varve {
namespace {

constexpr double kNewSampleWeight = 0.25;

void Blend(double* average, double sample) {
  *average = *average == 0 ? sample : *average + kNewSampleWeight * (sample - *average);
}

void AddWork(const Runnable& runnable, int64_t num_tokens, bool sample, StepPlan* plan) {
  SequenceWork& work = plan->work.emplace_back();
  work.sequence = runnable.sequence;
  work.first_position = runnable.position;
  work.tokens.assign(runnable.pending.begin(), runnable.pending.begin() + num_tokens);
  work.sample = sample;
  if (sample) {
    work.sampling = runnable.sampling;
    work.num_top_logprobs = runnable.num_top_logprobs;
  }
}

// How a step's chunk budget is divided between prompts and ingest.
struct Shares {
  int64_t prompts = 0;
  int64_t ingest = 0;
};

Shares Divide(int64_t budget, bool has_prompts, bool has_ingest, uint64_t step, int64_t min_chunk) {
  if (!has_ingest) {
    return {.prompts = budget, .ingest = 0};
  }
  if (!has_prompts) {
    return {.prompts = 0, .ingest = budget};
  }
  if (budget < 2 * min_chunk) {
    // Too small to split: two crumbs cost more than one chunk. They take turns.
    return step % 2 == 0 ? Shares{.prompts = budget, .ingest = 0}
                         : Shares{.prompts = 0, .ingest = budget};
  }
  // A person waits for a prompt, nobody watches a single ingest chunk.
  const int64_t ingest = std::max(min_chunk, budget / 4);
  return {.prompts = budget - ingest, .ingest = ingest};
}

bool IsPrompt(const Runnable& runnable) {
  return !runnable.decoding && !runnable.pending.empty();
}

}  // namespace

void StepCost::Record(int num_decodes, int64_t num_prefill_tokens, double step_us) {
  if (num_prefill_tokens == 0) {
    if (num_decodes == 0) {
      return;
    }
    const bool other_batch = num_decodes > 2 * decode_batch || 2 * num_decodes < decode_batch;
    if (other_batch) {
      decode_step_us = step_us;
    } else {
      Blend(&decode_step_us, step_us);
    }
    decode_batch = num_decodes;
    steps_since_decode_only = 0;
    return;
  }
  ++steps_since_decode_only;
  const double per_token_us = step_us / static_cast<double>(num_prefill_tokens);
  if (num_decodes == 0) {
    Blend(&prefill_token_us, per_token_us);
    return;
  }
  // The decodes' share is an estimate: never let it explain the whole step away.
  const double added_us = std::max(step_us - decode_step_us, 0.1 * step_us);
  Blend(&prefill_token_us, added_us / static_cast<double>(num_prefill_tokens));
}

int NumToAdmit(int num_waiting, int num_running, const SchedulerLimits& limits) {
  return std::max(0, std::min(num_waiting, limits.max_running - num_running));
}

int64_t ChunkBudget(int num_decodes, const StepCost& cost, const SchedulerLimits& limits) {
  if (num_decodes == 0) {
    return limits.max_chunk_tokens;
  }
  const bool other_batch =
      num_decodes > 2 * cost.decode_batch || 2 * num_decodes < cost.decode_batch;
  if (cost.decode_step_us <= 0 || other_batch ||
      cost.steps_since_decode_only >= limits.decode_probe_interval) {
    return 0;
  }
  if (cost.prefill_token_us <= 0) {
    return limits.min_chunk_tokens;
  }
  const double spare_us = (limits.max_slowdown - 1.0) * cost.decode_step_us;
  const double tokens =
      std::min(spare_us / cost.prefill_token_us, static_cast<double>(limits.max_chunk_tokens));
  return std::clamp(static_cast<int64_t>(tokens), limits.min_chunk_tokens, limits.max_chunk_tokens);
}

StepPlan PlanStep(const SchedulerState& state, const SchedulerLimits& limits) {
  const TraceSpan span("coordinator/scheduler");
  StepPlan plan{.epoch = state.epoch, .step = state.step, .work = {}};

  // 1. Every decode.
  int num_decodes = 0;
  bool has_prompts = false;
  for (const Runnable& request : state.requests) {
    if (request.decoding && !request.pending.empty()) {
      AddWork(request, 1, /*sample=*/true, &plan);
      ++num_decodes;
    }
    has_prompts = has_prompts || IsPrompt(request);
  }
  std::vector<const Runnable*> ingests;
  for (const Runnable& ingest : state.ingests) {
    if (!ingest.pending.empty()) {
      ingests.push_back(&ingest);
    }
  }
  const int64_t budget = ChunkBudget(num_decodes, state.cost, limits);
  Shares shares =
      Divide(budget, has_prompts, !ingests.empty(), state.step, limits.min_chunk_tokens);

  // 2. One ingest chunk; the ingests take turns. Half the step number, because of the turns in
  // Divide.
  if (shares.ingest > 0) {
    const Runnable& ingest = *ingests[(state.step / 2) % ingests.size()];
    const auto pending = static_cast<int64_t>(ingest.pending.size());
    const int64_t num_tokens = std::min(shares.ingest, pending);
    AddWork(ingest, num_tokens, /*sample=*/false, &plan);
    if (has_prompts && shares.prompts > 0) {
      shares.prompts += shares.ingest - num_tokens;
    }
  }

  // 3. Prompts, first come, first served.
  for (const Runnable& request : state.requests) {
    if (shares.prompts <= 0) {
      break;
    }
    if (IsPrompt(request)) {
      const auto pending = static_cast<int64_t>(request.pending.size());
      const int64_t num_tokens = std::min(shares.prompts, pending);
      AddWork(request, num_tokens, /*sample=*/num_tokens == pending, &plan);
      shares.prompts -= num_tokens;
    }
  }
  return plan;
}

}  // namespace varve
