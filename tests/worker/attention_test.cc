#include "worker/attention.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/attn_state.h"
#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr size_t kHeads = 3;
constexpr size_t kHeadDim = 72;  // not a multiple of the block that is summed in registers

struct States {
  explicit States(uint64_t seed, size_t count) : o(count * kHeads * kHeadDim), lse(count * kHeads) {
    Rng rng(seed);
    for (float& value : o) {
      value = rng.NextNormal();
    }
    for (float& value : lse) {
      value = rng.Below(4) == 0 ? -INFINITY : 10.0F * rng.NextNormal();
    }
    for (size_t i = 0; i < count; ++i) {
      views.push_back({.o = o.data() + i * kHeads * kHeadDim, .lse = lse.data() + i * kHeads});
    }
  }
  std::vector<float> o;
  std::vector<float> lse;
  std::vector<StateView> views;
};

std::vector<float> Merge(const States& states) {
  std::vector<float> out(kHeads * kHeadDim, NAN);
  MergeStates(states.views, kHeads, kHeadDim, out.data());
  return out;
}

// Merging many at once is merging two after two.
TEST(MergeStates, AgreesWithTheMergeOfTwo) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const States states(seed, 1 + seed % 9);
    const std::vector<float> merged = Merge(states);
    for (size_t head = 0; head < kHeads; ++head) {
      std::vector<float> o(kHeadDim, 0.0F);
      float lse = -INFINITY;
      for (const StateView& state : states.views) {
        if (state.lse[head] != -INFINITY) {
          MergeState(o.data(), &lse, state.o + head * kHeadDim, state.lse[head], kHeadDim);
        }
      }
      for (size_t d = 0; d < kHeadDim; ++d) {
        EXPECT_NEAR(merged[head * kHeadDim + d], o[d], 1e-5) << "seed " << seed;
      }
    }
  }
}

TEST(MergeStates, DoesNotReadEmptyStates) {
  States states(3, 2);
  std::fill(states.lse.begin(), states.lse.end(), -INFINITY);
  std::fill(states.o.begin(), states.o.end(), NAN);
  EXPECT_EQ(Merge(states), std::vector<float>(kHeads * kHeadDim, 0.0F));
  for (size_t head = 0; head < kHeads; ++head) {
    states.lse[kHeads + head] = 2.0F;
  }
  for (size_t i = 0; i < kHeads * kHeadDim; ++i) {
    states.o[kHeads * kHeadDim + i] = static_cast<float>(i);
  }
  const std::vector<float> merged = Merge(states);
  for (size_t i = 0; i < merged.size(); ++i) {
    EXPECT_EQ(merged[i], static_cast<float>(i));
  }
}

}  // namespace
}  // namespace varve
