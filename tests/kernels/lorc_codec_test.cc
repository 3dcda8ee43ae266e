// lorc: ranks, the sizes that follow from them, what is lost, and that its bytes stay.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/lorc_block.h"
#include "kernels/codec/lorc_calibration.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"
#include "tests/kernels/lookalike.h"

namespace varve {
namespace {

constexpr int32_t kHeadDim = 64;

const Codec& LowRank() {
  return *FindCodec("lorc").value();
}

// Keys that differ in `key_rank` directions, equally, and values in `value_rank`, with a little
// noise.
CalibrationSample SampleOfRanks(uint64_t seed, size_t key_rank, size_t value_rank) {
  Rng rng(seed);
  CalibrationSample sample{
      .num_kv_heads = 2, .head_dim = kHeadDim, .num_tokens = 1000, .has_rope = true};
  const auto draw = [&](size_t rank, std::vector<float>* out) {
    for (size_t head = 0; head < 2; ++head) {
      std::vector<float> row(kHeadDim);
      for (float& x : row) {
        x = 0.01F * rng.NextNormal();
      }
      for (size_t r = 0; r < rank; ++r) {
        row[(7 * r + head) % kHeadDim] += rng.NextNormal();
      }
      out->insert(out->end(), row.begin(), row.end());
    }
  };
  for (int64_t t = 0; t < sample.num_tokens; ++t) {
    draw(key_rank, &sample.k);
    draw(value_rank, &sample.v);
  }
  for (int32_t i = 0; i < 2 * kHeadDim * kHeadDim; ++i) {
    sample.q_moment.push_back(i / kHeadDim % kHeadDim == i % kHeadDim ? 1.0 : 0.0);
  }
  return sample;
}

TEST(LorcCodec, RanksAreThoseThatRetainTheShare) {
  const auto ranks = [](size_t key_rank, size_t value_rank) {
    const CodecTables tables = CalibrateLorc(SampleOfRanks(61, key_rank, value_rank));
    return std::pair(LorcRank(tables.values.data(), true, kHeadDim),
                     LorcRank(tables.values.data(), false, kHeadDim));
  };
  // Never less than a quarter of the dimensions.
  EXPECT_EQ(ranks(4, 60), std::pair(size_t{16}, size_t{64}));
  EXPECT_EQ(ranks(24, 40), std::pair(size_t{24}, size_t{40}));
}

TEST(LorcCodec, SmallHeadsKeepWhatTheyHave) {
  EXPECT_EQ(LorcLeastRank(64), 16U);
  EXPECT_EQ(LorcLeastRank(128), 32U);
  EXPECT_EQ(LorcLeastRank(20), 8U);
  EXPECT_EQ(LorcLeastRank(4), 4U);
}

TEST(LorcCodec, SizesFollowTheTablesOfTheLayer) {
  const RunShape shape{2, kHeadDim, 128};
  const CodecTables shallow = CalibrateLorc(SampleOfRanks(62, 48, 64));
  const CodecTables deep = CalibrateLorc(SampleOfRanks(63, 16, 32));
  EXPECT_TRUE(LowRank().sized_by_tables());
  EXPECT_DOUBLE_EQ(LowRank().BitsPerValue(shape, &shallow), (4.0 * (48 + 64) + 64.0) / 128.0);
  EXPECT_DOUBLE_EQ(LowRank().BitsPerValue(shape, &deep), (4.0 * (16 + 32) + 64.0) / 128.0);
  EXPECT_DOUBLE_EQ(LowRank().BitsPerValue(shape), 4.5);  // the most
  for (const CodecTables* tables : {&shallow, &deep}) {
    EXPECT_LE(LowRank().EncodedBytes(shape, tables), LowRank().EncodedBytes(shape));
  }
}

TEST(LorcCodec, LosesLittleOfTheScoresOfLowRankKeysInFewBits) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = MakeLookalike(64, shape);
  const CodecTables tables = LowRank().Calibrate(made.sample);
  EXPECT_LE(LorcRank(tables.values.data(), true, kHeadDim), 40U);
  EXPECT_EQ(LowRank().Calibrate(made.sample).hash, tables.hash);
  EXPECT_LT(ScoreError(LowRank(), shape, made),
            0.3 * ScoreError(*FindCodec("rot2").value(), shape, made));
}

TEST(LorcCodec, WithoutRotationsTheWholeMetricCounts) {
  // Queries look along (1, 1, 0, ...) only. Keys differ most along (1, -1, 0, ...), which they do
  // not see, and in ways of their own.
  CalibrationSample sample = SampleOfRanks(65, 64, 64);
  sample.has_rope = false;
  for (size_t row = 0; row < sample.k.size(); row += kHeadDim) {
    sample.k[row] *= 20.0F;
    sample.k[row + 1] -= sample.k[row];
  }
  std::fill(sample.q_moment.begin(), sample.q_moment.end(), 0.0);
  for (size_t head = 0; head < 2; ++head) {
    for (const size_t at : {0, 1, kHeadDim, kHeadDim + 1}) {
      sample.q_moment[head * kHeadDim * kHeadDim + at] = 1.0;
    }
  }
  const CodecTables tables = CalibrateLorc(sample);
  const LorcTables keys = LorcTablesOf(tables.values.data(), 0, true, kHeadDim);
  EXPECT_EQ(keys.rank, 16U);
  // What a key looks like to these queries survives.
  const RunShape shape{2, kHeadDim, 100};
  const RunContext context{.tables = &tables};
  std::vector<std::byte> bytes(LowRank().EncodedBytes(shape, &tables));
  LowRank().Encode(shape, 0, 100, sample.k.data(), sample.v.data(), 128, context, bytes);
  std::vector<float> k(100 * 128);
  std::vector<float> v(k.size());
  LowRank().Decode(shape, 0, 100, bytes, context, k.data(), v.data());
  double error = 0.0;
  double energy = 0.0;
  for (size_t row = 0; row < k.size(); row += kHeadDim) {
    const double seen = sample.k[row] + sample.k[row + 1];
    error += std::pow(k[row] + k[row + 1] - seen, 2);
    energy += seen * seen;
  }
  EXPECT_LT(error, 0.05 * energy);
}

// Tables that no computer rounds: ranks 16 and 24, each entry of y one channel.
CodecTables PlainTables() {
  CodecTables tables;
  tables.values.resize(LorcTableFloats(2, kHeadDim));
  tables.values[0] = 16.0F;
  tables.values[1] = 24.0F;
  for (size_t side = 0; side < 4; ++side) {
    float* mean = tables.values.data() + 2 + side * LorcSideFloats(kHeadDim);
    float* forward = mean + kHeadDim;
    float* inverse = forward + size_t{kHeadDim} * kHeadDim;
    for (size_t i = 0; i < kHeadDim; ++i) {
      mean[i] = static_cast<float>(i % 3) - 1.0F;
      if (i < 24) {
        forward[(kHeadDim - 1 - i) * kHeadDim + i] = 0.5F;
        inverse[i * kHeadDim + kHeadDim - 1 - i] = 2.0F;
      }
    }
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(LorcCodec, BytesAreThoseOfTheFirstVersion) {
  const RunShape shape{2, kHeadDim, 70};
  const CodecTables tables = PlainTables();
  const RunContext context{.tables = &tables};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 64 * 70; ++i) {
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  std::vector<std::byte> bytes(LowRank().EncodedBytes(shape, &tables));
  LowRank().Encode(shape, 0, 70, tokens.k.data(), tokens.v.data(), 128, context, bytes);
  ASSERT_EQ(LowRank().version(), 1);
  EXPECT_EQ(Hash64(bytes), 8113529731781934020U);
  // Channels without a coefficient are their mean, the others are off by half a step.
  Tokens decoded = tokens;
  LowRank().Decode(shape, 0, 70, bytes, context, decoded.k.data(), decoded.v.data());
  for (size_t t = 0; t < 70; ++t) {
    for (size_t i = 0; i < kHeadDim; ++i) {
      const float mean = static_cast<float>(i % 3) - 1.0F;
      const size_t at = t * 128 + 64 + i;
      EXPECT_NEAR(decoded.k[at], i >= 48 ? tokens.k[at] : mean, i >= 48 ? 0.4F : 1e-6F);
      EXPECT_NEAR(decoded.v[at], i >= 40 ? tokens.v[at] : mean, i >= 40 ? 0.4F : 1e-6F);
    }
  }
}

TEST(LorcCodec, DamagedBytesDecodeToSomething) {
  const RunShape shape{2, kHeadDim, 70};
  const CodecTables tables = PlainTables();
  const RunContext context{.tables = &tables};
  const std::vector<std::byte> bytes(LowRank().EncodedBytes(shape, &tables), std::byte{0xff});
  std::vector<float> k(70 * TokenValues(shape), 7.0F);
  std::vector<float> v(k.size(), 7.0F);
  LowRank().Decode(shape, 0, 70, bytes, context, k.data(), v.data());
  EXPECT_NE(k.back(), 7.0F);
  EXPECT_NE(v.back(), 7.0F);
}

TEST(LorcCodecDeathTest, RefusesRunsOfAnotherSizeThanItsTablesSay) {
  const RunShape shape{2, kHeadDim, 8};
  const CodecTables tables = PlainTables();
  const RunContext context{.tables = &tables};
  std::vector<float> k(8 * TokenValues(shape));
  std::vector<float> v(k.size());
  std::vector<std::byte> most(LowRank().EncodedBytes(shape));
  EXPECT_DEATH(LowRank().Encode(shape, 0, 8, k.data(), v.data(), 128, context, most),
               "EncodedBytes");
  EXPECT_DEATH(LowRank().Decode(shape, 0, 8, most, context, k.data(), v.data()), "EncodedBytes");
}

}  // namespace
}  // namespace varve
