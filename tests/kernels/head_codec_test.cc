// Codecs that code heads as a whole: what each is for.
#include "kernels/codec/head_codec.h"

#include <cmath>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/lloyd_max.h"
#include "kernels/codec/nuq_block.h"
#include "kernels/codec/nuq_encode.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"
#include "tests/kernels/lookalike.h"

namespace varve {
namespace {

constexpr int32_t kHeadDim = 64;

RopeSpec Spec(int32_t head_dim) {
  RopeSpec spec;
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    spec.inv_freq.push_back(std::pow(10'000.0, -2.0 * i / head_dim));
  }
  return spec;
}

TEST(Rope, TurnsByTheAngleOfThePositionAtAnyLength) {
  const RopeSpec spec = Spec(kHeadDim);
  const Rope rope(spec);
  for (const int64_t position : {int64_t{0},
                                 int64_t{1},
                                 int64_t{255},
                                 int64_t{256},
                                 int64_t{65'537},
                                 int64_t{9'999'999},
                                 (int64_t{1} << 32) - 1}) {
    float turn[kHeadDim];
    rope.Turn(position, turn);
    for (size_t i = 0; i < kHeadDim / 2; ++i) {
      const double angle = static_cast<double>(position) * spec.inv_freq[i];
      EXPECT_NEAR(turn[i], std::cos(angle), 4e-7) << position << " pair " << i;
      EXPECT_NEAR(turn[kHeadDim / 2 + i], std::sin(angle), 4e-7) << position << " pair " << i;
    }
  }
}

TEST(Rope, TurningBackUndoesIt) {
  const Rope rope(Spec(kHeadDim));
  Rng rng(5);
  std::vector<float> x(3 * kHeadDim);
  for (float& value : x) {
    value = rng.NextNormal();
  }
  const int32_t offsets[] = {0, 7, 300};
  const RopePositions positions{.first = 1'234'567, .offsets = offsets};
  std::vector<float> y = x;
  TurnRows(rope, positions, 3, y.data());
  EXPECT_GT(std::fabs(y[2 * kHeadDim] - x[2 * kHeadDim]), 1e-3);
  TurnRowsBack(rope, positions, 3, y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(y[i], x[i], 3e-6);
  }
}

TEST(FitLevels, FindsTheOptimalQuantiserOfANormalSource) {
  Rng rng(11);
  std::vector<float> values(200'000);
  for (float& value : values) {
    value = rng.NextNormal();
  }
  // J. Max, 1960, table I. The generator's tails are a little lighter than normal.
  const std::vector<float> levels = FitLevels(values, {}, 4);
  EXPECT_NEAR(levels[0], -1.510, 0.03);
  EXPECT_NEAR(levels[1], -0.4528, 0.02);
  EXPECT_NEAR(levels[2], 0.4528, 0.02);
  EXPECT_NEAR(levels[3], 1.510, 0.03);
}

TEST(FitLevels, GoesWhereTheWeightIs) {
  const float values[] = {0.0F, 1.0F, 2.0F, 10.0F};
  const float weights[] = {1.0F, 1.0F, 1.0F, 1e6F};
  const std::vector<float> levels = FitLevels(values, weights, 2);
  EXPECT_NEAR(levels[0], 1.0F, 1e-6);
  EXPECT_NEAR(levels[1], 10.0F, 1e-6);
  EXPECT_EQ(FitLevels({}, {}, 2).size(), 2U);
}

// Mean squared error of keys, or of values.
double Error(const Codec& codec,
             const RunShape& shape,
             const Tokens& tokens,
             const RunContext& context,
             bool keys) {
  std::vector<std::byte> bytes(codec.EncodedBytes(shape, context.tables));
  codec.Encode(shape,
               0,
               shape.token_capacity,
               tokens.k.data(),
               tokens.v.data(),
               TokenValues(shape),
               context,
               bytes);
  Tokens decoded = tokens;
  codec.Decode(shape, 0, shape.token_capacity, bytes, context, decoded.k.data(), decoded.v.data());
  const std::vector<float>& before = keys ? tokens.k : tokens.v;
  const std::vector<float>& after = keys ? decoded.k : decoded.v;
  double sum = 0.0;
  for (size_t i = 0; i < before.size(); ++i) {
    sum += std::pow(static_cast<double>(before[i]) - after[i], 2);
  }
  return sum / static_cast<double>(before.size());
}

TEST(KiviCodec, KeysWithLargeChannelsLoseLessThanByToken) {
  const RunShape shape{2, kHeadDim, 128};
  Tokens tokens = MakeTokens(shape, 0, 103);
  for (size_t i = 0; i < tokens.k.size(); ++i) {
    tokens.k[i] += i % kHeadDim == 5 || i % kHeadDim == 37 ? 25.0F : 0.0F;
  }
  const double by_channel = Error(*FindCodec("kivi2").value(), shape, tokens, {}, true);
  const double by_token = Error(*FindCodec("int2").value(), shape, tokens, {}, true);
  EXPECT_LT(by_channel, 0.1 * by_token);
  const double finer = Error(*FindCodec("kivi2g32").value(), shape, tokens, {}, true);
  EXPECT_LT(finer, by_channel);
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(KiviCodec, BytesAreThoseOfTheFirstVersion) {
  const RunShape shape{2, 64, 70};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 64 * 70; ++i) {
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  const std::pair<const char*, uint64_t> golden[] = {{"kivi4", 10054344410222002647U},
                                                     {"kivi2", 520205280731941898U},
                                                     {"kivi4g32", 12928135883857890943U},
                                                     {"kivi2g32", 4478258376247853752U}};
  for (const auto& [name, hash] : golden) {
    const Codec& codec = *FindCodec(name).value();
    ASSERT_EQ(codec.version(), 1);
    EXPECT_EQ(Hash64(EncodeAll(codec, shape, tokens)), hash) << name;
  }
}

TEST(NuqCodec, EachPartOfTheMethodPays) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = MakeLookalike(13, shape);
  const auto error = [&](const char* name) {
    return ScoreError(*FindCodec(name).value(), shape, made);
  };
  // The order of the paper's ablation: per token, per channel with fitted levels, outliers apart.
  EXPECT_LT(error("nuq3"), 0.8 * error("int3"));
  EXPECT_LT(error("nuq3-1%"), 0.8 * error("nuq3"));
  EXPECT_LT(error("nuq4-1%"), error("nuq3-1%"));
}

TEST(NuqCodec, LevelsGoWhereTheSensitivityIs) {
  Rng rng(19);
  CalibrationSample sample{.num_kv_heads = 1,
                           .head_dim = 8,
                           .num_tokens = 500,
                           .q_moment = std::vector<double>(64, 1.0)};
  for (size_t i = 0; i < 8 * 500; ++i) {
    sample.k.push_back(static_cast<float>(2.0 * rng.NextDouble() - 1.0));
    sample.v.push_back(static_cast<float>(2.0 * rng.NextDouble() - 1.0));
    sample.k_sensitivity.push_back(sample.k.back() > 0.0F ? 1.0F : 0.0F);
    sample.v_sensitivity.push_back(sample.v.back() < 0.0F ? 1.0F : 0.0F);
  }
  const std::vector<float> levels = FindCodec("nuq3").value()->Calibrate(sample).values;
  const auto positive = [&](ptrdiff_t first) {
    return std::count_if(
        levels.begin() + first, levels.begin() + first + 8, [](float x) { return x > 0.0F; });
  };
  EXPECT_GT(positive(0), 4);  // of the keys
  EXPECT_LT(positive(8), 4);  // of the values
  sample.k_sensitivity.clear();
  sample.v_sensitivity.clear();
  const std::vector<float> even = FindCodec("nuq3").value()->Calibrate(sample).values;
  EXPECT_LT(even[3], 0.0F);  // half of them on either side
  EXPECT_GT(even[4], 0.0F);
  EXPECT_LT(even[8 + 3], 0.0F);
  EXPECT_GT(even[8 + 4], 0.0F);
}

TEST(NuqCodec, LevelsAreWholeStepsSoThatIntegersAreExact) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = MakeLookalike(17, shape);
  for (const auto& [name, bits] :
       {std::pair<const char*, size_t>{"nuq4", 4}, {"nuq3-1%", 3}, {"nuq2", 2}}) {
    const CodecTables tables = FindCodec(name).value()->Calibrate(made.sample);
    const NuqTables head = NuqTablesOf(tables.values.data(), bits, 0, kHeadDim);
    for (const float* levels : {head.key_levels, head.value_levels}) {
      int8_t steps[kMaxNuqLevels];
      const float step = NuqLevelSteps(levels, bits, steps);
      for (size_t i = 0; i < size_t{1} << bits; ++i) {
        EXPECT_NEAR(levels[i], static_cast<float>(steps[i]) * step, 1e-6) << name;
      }
    }
  }
}

TEST(NuqCodec, OutliersOfValuesAreKeptAndDoNotWidenTheRange) {
  std::vector<float> row(kHeadDim);
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] = static_cast<float>(i) / kHeadDim;
  }
  row[40] = -100.0F;
  const NuqRow split = SplitNuqRow(row, 1);
  EXPECT_THAT(split.outliers, testing::ElementsAre(40U));
  EXPECT_NEAR(split.offset, 63.0 / 128.0, 1e-6);
  EXPECT_NEAR(split.scale, 63.0 / 128.0, 1e-6);
  EXPECT_THAT(SplitNuqRow(row, 0).outliers, testing::IsEmpty());
  EXPECT_GT(SplitNuqRow(row, 0).scale, 50.0F);
}

TEST(HeadCodec, KeptTokensOfAPrunedRunTurnByTheirOwnPositions) {
  // Whatever the positions, what comes back is close to what went in.
  const RunShape shape{2, kHeadDim, 40};
  const Rope rope(Spec(kHeadDim));
  const Codec& codec = *FindCodec("nuq4").value();
  const CodecTables* tables = TablesFor(codec, 2, kHeadDim);
  std::vector<int32_t> indices;
  for (int32_t head = 0; head < 2; ++head) {
    for (int32_t t = 0; t < 40; ++t) {
      indices.push_back(3 * t + head);
    }
  }
  const RunContext context{.tables = tables,
                           .rope = &rope,
                           .first_position = 500'000,
                           .token_indices = indices.data(),
                           .num_indices = 40};
  // Keys of the kind that the tables were made for, rotated to where they stand.
  Rng rng(3);
  Tokens tokens;
  for (size_t i = 0; i < TokenValues(shape) * 40; ++i) {
    const float channel = 1.0F + static_cast<float>(i % TokenValues(shape) % 5);
    tokens.k.push_back(channel * rng.NextNormal() + 0.5F * channel);
    tokens.v.push_back(rng.NextNormal());
  }
  const double unrotated = Error(codec, shape, tokens, {.tables = tables}, true);
  Tokens turned = tokens;
  for (size_t t = 0; t < 40; ++t) {
    for (size_t head = 0; head < 2; ++head) {
      TurnRows(rope,
               {.first = context.first_position + indices[head * 40 + t]},
               1,
               turned.k.data() + t * TokenValues(shape) + head * kHeadDim);
    }
  }
  EXPECT_NEAR(Error(codec, shape, turned, context, true), unrotated, 0.01 * unrotated);
  // With the positions of an unpruned run it would not be.
  const RunContext wrong{.tables = tables, .rope = &rope, .first_position = 500'000};
  EXPECT_GT(Error(codec, shape, turned, wrong, true), 1.5 * unrotated);
}

}  // namespace
}  // namespace varve
