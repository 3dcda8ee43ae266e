// From logits to a token. Greedy takes the most likely token, the lowest id on ties. Otherwise the
// draw depends on the seed and the position only, so that a request with a seed can be repeated,
// whatever else runs beside it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/base/result.h"
#include "proto/step_plan.h"

namespace varve {

// Memory of the sampler, reused from call to call.
struct SamplerScratch {
  struct Candidate {
    float weight = 0.0F;  // exp of the tempered logit, the largest one's is 1
    int32_t token = 0;
  };
  std::vector<Candidate> candidates;
  std::vector<float> weights;  // [vocab]
};

struct Sample {
  TokenLogprob token;
  std::vector<TokenLogprob>
      top;  // most likely first, the lower id first on ties; [num_top_logprobs]
};

// Draws the token at `position` (that of the new token). Log-probabilities are of the untempered
// distribution. Errors: kInternal if a logit is not finite, kInvalidArgument if a parameter is
// outside its range.
Result<Sample> SampleToken(std::span<const float> logits,
                           const SamplingParams& params,
                           int64_t position,
                           int32_t num_top_logprobs,
                           SamplerScratch& scratch);

}  // namespace varve
