#include "worker/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

using Candidate = SamplerScratch::Candidate;

// e^x for x <= 0, relative error under 1e-6, without branches so that the loop over a vocabulary is
// vectorised. Cephes' reduction: x = n ln 2 + r, polynomial in r.
inline float ExpNonPositive(float x) {
  x = std::max(x, -87.0F);
  const float n = std::floor(x * 1.44269504F + 0.5F);
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// Largest logit; the first one on ties. Not finite if any logit is NaN or +infinity.
size_t FindLargest(std::span<const float> logits, bool& all_finite) {
  size_t largest = 0;
  float nan_or_zero = 0.0F;
  for (size_t i = 0; i < logits.size(); ++i) {
    nan_or_zero += logits[i] * 0.0F;
    if (logits[i] > logits[largest]) {
      largest = i;
    }
  }
  all_finite = nan_or_zero == 0.0F;
  return largest;
}

// weights[i] = exp((logits[i] - highest) * inverse_temperature); returns their sum.
double ExpAll(std::span<const float> logits,
              float highest,
              float inverse_temperature,
              std::vector<float>& weights) {
  constexpr size_t kBlock = 1024;
  weights.resize(logits.size());
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits.size());
    for (size_t i = begin; i < end; ++i) {
      weights[i] = ExpNonPositive((logits[i] - highest) * inverse_temperature);
    }
    std::array<float, 8> sums{};
    size_t i = begin;
    for (; i + sums.size() <= end; i += sums.size()) {
      for (size_t lane = 0; lane < sums.size(); ++lane) {
        sums[lane] += weights[i + lane];
      }
    }
    for (; i < end; ++i) {
      sums[0] += weights[i];
    }
    for (const float sum : sums) {
      total += sum;
    }
  }
  return total;
}

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// Draws from the nucleus: the smallest set of most likely tokens whose probabilities reach top_p.
int32_t DrawFromNucleus(double total, float top_p, double uniform, SamplerScratch& scratch) {
  const std::vector<float>& weights = scratch.weights;
  std::vector<Candidate>& candidates = scratch.candidates;
  // All tokens below this weight together have less than 1 - top_p of the mass: none of them is in
  // the nucleus.
  const auto count = static_cast<double>(weights.size());
  const auto cutoff =
      static_cast<float>((1.0 - static_cast<double>(top_p)) * total / count * 0.999);
  candidates.clear();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= cutoff) {
      candidates.push_back({weights[i], static_cast<int32_t>(i)});
    }
  }
  std::sort(candidates.begin(), candidates.end(), MoreLikely);
  const double wanted = static_cast<double>(top_p) * total;
  double mass = 0.0;
  size_t size = 0;
  while (size < candidates.size() && (size == 0 || mass < wanted)) {
    mass += candidates[size++].weight;
  }
  double target = uniform * mass;
  for (size_t i = 0; i < size; ++i) {
    target -= candidates[i].weight;
    if (target < 0.0) {
      return candidates[i].token;
    }
  }
  return candidates[size - 1].token;
}

int32_t DrawFromAll(double total, double uniform, std::span<const float> weights) {
  double target = uniform * total;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    target -= weights[i];
    if (target < 0.0) {
      return static_cast<int32_t>(i);
    }
    last = weights[i] > 0.0F ? i : last;
  }
  return static_cast<int32_t>(last);
}

std::vector<TokenLogprob> MostLikely(std::span<const float> logits,
                                     int32_t count,
                                     double log_total,
                                     SamplerScratch& scratch) {
  std::vector<Candidate>& candidates = scratch.candidates;
  candidates.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const size_t wanted = std::min(static_cast<size_t>(count), logits.size());
  const auto middle = candidates.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::partial_sort(candidates.begin(), middle, candidates.end(), MoreLikely);
  std::vector<TokenLogprob> top;
  for (auto it = candidates.begin(); it != middle; ++it) {
    top.push_back({it->token, static_cast<float>(it->weight - log_total)});
  }
  return top;
}

}  // namespace

Result<Sample> SampleToken(std::span<const float> logits,
                           const SamplingParams& params,
                           int64_t position,
                           int32_t num_top_logprobs,
                           SamplerScratch& scratch) {
  VARVE_CHECK(!logits.empty());
  if (!(params.temperature >= 0.0F) || !std::isfinite(params.temperature)) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("temperature is {}; it must be 0 or more", params.temperature)};
  }
  if (!(params.top_p > 0.0F && params.top_p <= 1.0F)) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("top_p is {}; it must be in (0, 1]", params.top_p)};
  }
  bool all_finite = false;
  const size_t largest = FindLargest(logits, all_finite);
  if (!all_finite) {
    return Error{ErrorCode::kInternal,
                 fmt::format("a logit at position {} is not finite", position - 1)};
  }
  const float highest = logits[largest];
  const double log_total = highest + std::log(ExpAll(logits, highest, 1.0F, scratch.weights));

  auto token = static_cast<int32_t>(largest);
  if (params.temperature > 0.0F) {
    // A temperature so low that its inverse overflows means greedy.
    const float inverse = std::min(1.0F / params.temperature, 1e30F);
    const double total = ExpAll(logits, highest, inverse, scratch.weights);
    const double uniform = Rng(params.seed, static_cast<uint64_t>(position)).NextDouble();
    token = params.top_p < 1.0F ? DrawFromNucleus(total, params.top_p, uniform, scratch)
                                : DrawFromAll(total, uniform, scratch.weights);
  }
  Sample sample;
  sample.token = {token, static_cast<float>(logits[static_cast<size_t>(token)] - log_total)};
  if (num_top_logprobs > 0) {
    sample.top = MostLikely(logits, num_top_logprobs, log_total, scratch);
  }
  return sample;
}

}  // namespace varve
