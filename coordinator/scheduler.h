// Who runs in the next step, and with how many tokens: continuous batching as a pure function of
// the state.
//
// Every decoding request gets its one token in every step. What is left of the step goes to prompts
// (first come, first served) and to one ingest. While requests decode, the prompt and ingest tokens
// of a step are limited so that the predicted step takes at most `max_slowdown` times a decode-only
// step (the rule of Sarathi-Serve): an ingest of millions of tokens then costs the streams beside
// it a bounded factor, not their lives. The prediction comes from measured steps (StepCost). A
// floor of `min_chunk_tokens` keeps ingests and prompts moving on any machine.
//
// Threads: none; no clock, no allocation besides the plan.
//
// Next: coordinator/engine.h
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/base/ids.h"
#include "proto/step_plan.h"

namespace varve {

struct SchedulerLimits {
  int max_running = 64;            // requests that hold a sequence at the same time
  int64_t max_chunk_tokens = 512;  // prompt and ingest tokens of one step
  int64_t min_chunk_tokens = 16;   // the floor of the same while requests decode
  double max_slowdown = 2.0;       // predicted step time over the decode-only step time
  int decode_probe_interval = 32;  // mixed steps until one decode-only step renews its estimate
};

// What steps have cost so far, as moving averages. Zero: not measured yet.
struct StepCost {
  double decode_step_us = 0;        // a step of decodes only
  int decode_batch = 0;             // number of decodes in the last such step
  double prefill_token_us = 0;      // what one prompt or ingest token adds to a step
  int steps_since_decode_only = 0;  // mixed steps since decode_step_us was last measured

  // Takes one measured step into account.
  void Record(int num_decodes, int64_t num_prefill_tokens, double step_us);
};

// A sequence that could take part in the step.
struct Runnable {
  SequenceId sequence;
  int64_t position = 0;              // of pending[0]
  std::span<const int32_t> pending;  // tokens not computed yet; a decode has one
  bool decoding = false;             // the prompt is done: pending is the token drawn last
  SamplingParams sampling;
  int32_t num_top_logprobs = 0;
};

struct SchedulerState {
  Epoch epoch;
  uint64_t step = 0;               // number of this step: turns that rotate are derived from it
  std::vector<Runnable> requests;  // in order of admission
  std::vector<Runnable> ingests;   // at most one per context
  StepCost cost;
};

// How many waiting requests may open a sequence now, from the head of the queue.
int NumToAdmit(int num_waiting, int num_running, const SchedulerLimits& limits);

// Prompt and ingest tokens that fit into a step beside `num_decodes` decodes. 0: this step is for
// decodes only, because their cost is not known or its estimate is stale.
int64_t ChunkBudget(int num_decodes, const StepCost& cost, const SchedulerLimits& limits);

// The plan of the next step; empty when nothing can run. Sequences with nothing pending are
// skipped.
StepPlan PlanStep(const SchedulerState& state, const SchedulerLimits& limits);

}  // namespace varve
