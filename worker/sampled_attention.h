// The attention of one row (a query and a head) estimated from a sample of pages, with the error
// that the sample itself says the estimate has.
//
// Some pages are read for sure. Of the others page i is drawn with the probability p_i, and stands
// for 1 / p_i pages like it: so neither the numerator nor the denominator of the softmax is biased
// (Horvitz and Thompson 1952). With m_i = exp(lse_i), page i's mass, and o_i, its state,
//
//   D = sum of m_i / p_i    o = (sum of m_i o_i / p_i) / D    page that are read for sure: p_i = 1
//
// Linearised, the error of o is that of the mean of y_i = m_i (o_i - o) / (p_i D), whose variance a
// sample of fixed size estimates as n / (n - 1) times the sum of (1 - p_i) |y_i - M|^2, M their
// mean weighted by 1 - p_i (Rosen 1997, for order sampling). That is a covariance matrix of
// head_dim dimensions, of which V is the trace. Were the error normal, its squared length would be
// spread like V times F(h, n - 1) with h = V^2 / |covariance|^2, the number of dimensions that it
// has in effect (Satterthwaite 1946): that gives the length that it exceeds in a share delta of the
// cases. Stopping when it is small enough is the idea of vAttention (2510.05688).
//
// What is stated is an estimate, not a guarantee: a page that holds almost all of the mass and was
// neither ranked nor drawn is not in the sample, nor in its variance. Ranking has to find it
// (worker/page_sampler.h).
//
// The moments of several workers' samples add up to those of all, so that each states nothing and
// whoever merges the states states the error of the whole.
//
// Threads: plain functions.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace varve {

// The states of the sampled pages for one row, and how probable it was that each was read. Pages of
// probability 1 count as read for sure.
struct SampledStates {
  const float* lse = nullptr;  // of page i at lse[i * lse_stride]
  size_t lse_stride = 0;
  const float* o = nullptr;  // of page i at o[i * o_stride], [head_dim]
  size_t o_stride = 0;
  std::span<const float> probabilities;  // [pages], in [0, 1]; 0: not in the sample
};

// What a sample says of the error of one row's estimate: [MomentFloats(head_dim)] floats, relative
// to the row's own lse and around its own o.
//   variance V, square of the masses, |covariance|, number of drawn pages less one, mass that was
//   not read; then [head_dim] products of masses and o
inline constexpr size_t kMomentVariance = 0;
inline constexpr size_t kMomentMass = 1;
inline constexpr size_t kMomentSpread = 2;
inline constexpr size_t kMomentFreedom = 3;
inline constexpr size_t kMomentMissed = 4;
inline constexpr size_t kMomentScalars = 5;
constexpr size_t MomentFloats(size_t head_dim) {
  return kMomentScalars + head_dim;
}

// In: (o, lse), the state over the pages read for sure that are not in `sampled`. Out: the estimate
// over all pages, and its moments. `scratch` grows to (head_dim + pages) * (pages + 1).
void EstimateFromSample(const SampledStates& sampled,
                        size_t head_dim,
                        float* o,
                        float* lse,
                        float* moments,
                        std::vector<float>& scratch);

// One worker's estimate, of those that are merged.
struct EstimatedState {
  const float* o = nullptr;  // [head_dim]
  float lse = 0.0F;
  const float* moments = nullptr;
};

// The error of merged estimates at a confidence of 1 - delta.
class ErrorStatement {
 public:
  // REQUIRES: 0 < delta < 1.
  explicit ErrorStatement(double delta);

  double delta() const { return delta_; }

  struct Row {
    float error = 0.0F;   // length of the error of o, relative to o's length; infinite: not known
    float missed = 0.0F;  // share of the mass that lies on pages that were not read
  };
  // `o`: [head_dim], the merge of the states.
  Row Of(std::span<const EstimatedState> states, const float* o, size_t head_dim) const;

 private:
  // What V is to be multiplied with: the quantile of F(dimensions, freedom).
  double Quantile(double dimensions, double freedom) const;

  double delta_;
  std::vector<double> quantiles_;  // on a grid, of both degrees of freedom
};

}  // namespace varve
