// Properties of the merge: it is what lets pages, workers and nodes attend in any grouping.
#include "kernels/attn_state.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr int kHeadDim = 8;

struct State {
  std::vector<float> o = std::vector<float>(kHeadDim, 0.0F);
  float lse = -INFINITY;
};

State RandomState(Rng* rng) {
  State state;
  if (rng->Below(8) == 0) {
    return state;  // empty
  }
  for (float& value : state.o) {
    value = rng->NextNormal();
  }
  state.lse = 20.0F * rng->NextNormal();
  return state;
}

State Merge(State a, const State& b) {
  MergeState(a.o.data(), &a.lse, b.o.data(), b.lse, kHeadDim);
  return a;
}

void ExpectNear(const State& a, const State& b, const char* what, uint64_t seed) {
  if (std::isinf(a.lse) || std::isinf(b.lse)) {
    EXPECT_EQ(a.lse, b.lse) << what << " seed " << seed;
  } else {
    EXPECT_NEAR(a.lse, b.lse, 1e-5 + 2e-7 * std::fabs(a.lse)) << what << " seed " << seed;
  }
  for (int i = 0; i < kHeadDim; ++i) {
    // The weights are exponentials of differences of lse values that are rounded themselves.
    EXPECT_NEAR(a.o[i], b.o[i], 3e-5) << what << " seed " << seed;
  }
}

TEST(AttnState, MergeIsCommutativeAndAssociative) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Rng rng(seed);
    const State a = RandomState(&rng);
    const State b = RandomState(&rng);
    const State c = RandomState(&rng);
    ExpectNear(Merge(a, b), Merge(b, a), "commutative", seed);
    ExpectNear(Merge(Merge(a, b), c), Merge(a, Merge(b, c)), "associative", seed);
  }
}

TEST(AttnState, EmptyStateIsTheIdentity) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Rng rng(seed);
    const State a = RandomState(&rng);
    const State from_left = Merge(State(), a);
    const State from_right = Merge(a, State());
    EXPECT_EQ(from_left.lse, a.lse);
    EXPECT_EQ(from_right.lse, a.lse);
    EXPECT_EQ(from_left.o, a.o);
    EXPECT_EQ(from_right.o, a.o);
  }
}

TEST(AttnState, TwoEmptyStatesStayEmpty) {
  const State merged = Merge(State(), State());
  EXPECT_EQ(merged.lse, -INFINITY);
  EXPECT_EQ(merged.o, std::vector<float>(kHeadDim, 0.0F));
}

TEST(AttnState, EqualStatesAverage) {
  State a;
  State b;
  a.lse = b.lse = 500.0F;  // an exponential of it is no float
  a.o.assign(kHeadDim, 1.0F);
  b.o.assign(kHeadDim, 3.0F);
  const State merged = Merge(a, b);
  EXPECT_FLOAT_EQ(merged.lse, 500.0F + std::log(2.0F));
  EXPECT_FLOAT_EQ(merged.o[0], 2.0F);
}

TEST(AttnState, MergeOfSplitSoftmaxIsTheWholeSoftmax) {
  Rng rng(7);
  std::vector<double> scores(1000);
  std::vector<double> values(1000);
  double sum = 0.0;
  double mean = 0.0;
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = 3.0 * rng.NextNormal();
    values[i] = rng.NextNormal();
    sum += std::exp(scores[i]);
    mean += std::exp(scores[i]) * values[i];
  }
  State merged;
  for (size_t i = 0; i < scores.size(); ++i) {
    State one;
    one.lse = static_cast<float>(scores[i]);
    one.o.assign(kHeadDim, static_cast<float>(values[i]));
    merged = Merge(merged, one);
  }
  EXPECT_NEAR(merged.lse, std::log(sum), 1e-4);
  EXPECT_NEAR(merged.o[0], mean / sum, 1e-4);
}

}  // namespace
}  // namespace varve
