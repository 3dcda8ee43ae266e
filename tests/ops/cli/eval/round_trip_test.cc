#include "ops/cli/eval/round_trip.h"

#include <cmath>

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
  RoundTrip(
      **FindCodec("f32"), shape, k.data(), v.data(), {}, &scratch, k_out.data(), v_out.data());
  EXPECT_EQ(k_out, k);
  EXPECT_EQ(v_out, v);
  RoundTrip(
      **FindCodec("int8"), shape, k.data(), v.data(), {}, &scratch, k_out.data(), v_out.data());
  for (size_t i = 0; i < k.size(); ++i) {
    EXPECT_NEAR(k_out[i], k[i], 0.02);
    EXPECT_NEAR(v_out[i], v[i], 0.02);
  }
}

TEST(RoundTrip, HandsTablesAndPositionsToTheCodec) {
  const RunShape shape{.num_kv_heads = 1, .head_dim = 64, .token_capacity = 128};
  CalibrationSample sample;
  sample.num_kv_heads = 1;
  sample.head_dim = 64;
  sample.num_tokens = 1024;
  sample.k.resize(1024 * 64);
  sample.v.resize(sample.k.size());
  sample.q_moment.resize(64 * 64, 0.0);
  for (size_t i = 0; i < 64; ++i) {
    sample.q_moment[i * 65] = 1.0;
  }
  sample.has_rope = true;
  Rng rng(6);
  FillNormal(&rng, sample.k);
  FillNormal(&rng, sample.v);
  const Codec* codec = FindCodec("klt4").value();
  const CodecTables tables = codec->Calibrate(sample);
  RopeSpec spec;
  for (size_t i = 0; i < 32; ++i) {
    spec.inv_freq.push_back(std::pow(10'000.0, -static_cast<double>(i) / 32));
  }
  const Rope rope(spec);
  std::vector<float> k(128 * 64);
  std::vector<float> v(k.size());
  FillNormal(&rng, k);
  FillNormal(&rng, v);
  TurnRows(rope, {.first = 1000}, 128, k.data());
  std::vector<float> k_out(k.size());
  std::vector<float> v_out(v.size());
  std::vector<std::byte> scratch;
  RoundTrip(*codec,
            shape,
            k.data(),
            v.data(),
            {.tables = &tables, .rope = &rope, .first_position = 1000},
            &scratch,
            k_out.data(),
            v_out.data());
  double error = 0;
  for (size_t i = 0; i < k.size(); ++i) {
    error += std::pow(k_out[i] - k[i], 2);
  }
  EXPECT_LT(error / static_cast<double>(k.size()), 0.03);
}

}  // namespace
}  // namespace varve::cli
