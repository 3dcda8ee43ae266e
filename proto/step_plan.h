// One scheduler tick, as the coordinator hands it to the workers. A decode is a sequence with one
// token, a prefill chunk is a sequence with many: there is one step function for both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/base/ids.h"
#include "proto/base/result.h"

namespace varve {

struct SamplingParams {
  float temperature = 0.0F;  // 0: greedy (the most likely token, the lowest id on ties)
  float top_p = 1.0F;  // nucleus: smallest set of tokens whose probabilities reach top_p; in (0, 1]
  uint64_t seed = 0;   // the draw at position p depends on (seed, p) only
};

struct SequenceWork {
  SequenceId sequence;
  int64_t first_position =
      0;  // position of tokens[0]; must equal the sequence's length (a check against lost steps)
  std::vector<int32_t> tokens;  // not empty
  bool sample = false;          // draw a token from the last position's logits
  SamplingParams sampling;
  int32_t num_top_logprobs = 0;    // beside the drawn token's, when sample; at most 20
  bool return_all_logits = false;  // logits of every token, for evaluation and tests
};

struct StepPlan {
  Epoch epoch;
  uint64_t step = 0;  // counts up; an exchange never mixes two steps
  std::vector<SequenceWork> work;
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0.0F;  // natural log, of the untempered distribution
};

// Of the sealed pages of a context, over the layers that select pages: how many a request's steps
// read, and how many there were for them to choose from.
struct PageReads {
  int64_t read = 0;
  int64_t total = 0;
  // With selective attention, which states what it cost. The largest relative error of an attention
  // output, over steps, layers and heads; each is exceeded with a probability of delta.
  std::optional<float> error_bound;
  // Shares of attention mass on pages that were not read, added up over `num_missed_masses` rows of
  // steps, layers and heads.
  double missed_mass = 0;
  int64_t num_missed_masses = 0;

  double mean_missed_mass() const {
    return num_missed_masses == 0 ? 0.0 : missed_mass / static_cast<double>(num_missed_masses);
  }
  void Add(const PageReads& other) {
    read += other.read;
    total += other.total;
    if (other.error_bound) {
      error_bound = std::max(error_bound.value_or(0.0F), *other.error_bound);
    }
    missed_mass += other.missed_mass;
    num_missed_masses += other.num_missed_masses;
  }

  bool operator==(const PageReads&) const = default;
};

// What the quality meter saw of one head of one layer in one step of a request that read some of
// its context's pages (worker/quality_meter.h).
struct QualitySample {
  float error = 0.0F;        // of the attention output, relative to exact attention
  float mass_recall = 0.0F;  // share of the exact attention's mass that lay on the pages read
};

struct SequenceResult {
  SequenceId sequence;
  std::optional<TokenLogprob> sampled;
  std::vector<TokenLogprob> top_logprobs;  // most likely first
  std::vector<float> logits;               // [num_tokens, vocab_size] if return_all_logits
  // Of all workers and the request's steps so far; nothing if it reads every page.
  std::optional<PageReads> page_reads;
  std::vector<QualitySample> quality;  // of this step, where the meter sampled it
  std::optional<Error> error;  // this sequence's step failed; it must be closed, the others go on
};

struct StepResult {
  std::vector<SequenceResult> results;  // in the order of StepPlan::work
};

}  // namespace varve
