#include "ops/cli/eval/round_trip.h"

#include <gtest/gtest.h>

#include "ops/cli/eval/normal.h"

namespace varve::cli {
namespace {

TEST(RoundTrip, GivesEveryTokenAndHeadBackWhereItWas) {
  const RunShape shape{.num_kv_heads = 3, .head_dim = 64, .token_capacity = 40};
  std::vector<float> k(3 * 64 * 40);
  std::vector<float> v(k.size());
  Rng rng(5);
  FillNormal(&rng, k);
  FillNormal(&rng, v);
  std::vector<float> k_out(k.size());
  std::vector<float> v_out(v.size());
  std::vector<std::byte> scratch;
  RoundTrip(**FindCodec("f32"), shape, k.data(), v.data(), &scratch, k_out.data(), v_out.data());
  EXPECT_EQ(k_out, k);
  EXPECT_EQ(v_out, v);
  RoundTrip(**FindCodec("int8"), shape, k.data(), v.data(), &scratch, k_out.data(), v_out.data());
  for (size_t i = 0; i < k.size(); ++i) {
    EXPECT_NEAR(k_out[i], k[i], 0.02);
    EXPECT_NEAR(v_out[i], v[i], 0.02);
  }
}

}  // namespace
}  // namespace varve::cli
