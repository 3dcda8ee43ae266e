// The klt codecs: what each part of the recipe is for.
#include <cmath>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/codec/klt_block.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"
#include "tests/kernels/lookalike.h"

namespace varve {
namespace {

constexpr int32_t kHeadDim = 64;

const Codec& Named(const char* name) {
  return *FindCodec(name).value();
}

TEST(KltCodec, LosesFarLessOfTheScoresOfLowRankKeysThanARotation) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = MakeLookalike(7, shape);
  for (const auto& [klt, rot] : {std::pair{"klt2", "rot2"}, {"klt3", "rot3"}}) {
    EXPECT_LT(ScoreError(Named(klt), shape, made), 0.3 * ScoreError(Named(rot), shape, made))
        << klt;
  }
  EXPECT_LT(ScoreError(Named("klt1.8"), shape, made), ScoreError(Named("rot2"), shape, made));
}

TEST(KltCodec, SpendsItsBitsWhereKeysVary) {
  const RunShape shape{1, kHeadDim, 1};
  const Lookalike made = MakeLookalike(9, shape);
  const CodecTables tables = Named("klt2").Calibrate(made.sample);
  ASSERT_EQ(tables.values.size(), KltTableFloats(1, kHeadDim));
  const auto head = KltTablesOf(tables.values.data(), 0, kHeadDim);
  float total = 0.0F;
  for (size_t group = 0; group < kHeadDim / kKltGroup; ++group) {
    total += head.keys.group_bits[group];
    EXPECT_EQ(head.values.group_bits[group], 2.0F);
    if (group > 0) {
      EXPECT_LE(head.keys.group_bits[group], head.keys.group_bits[group - 1]);
    }
  }
  EXPECT_EQ(total, 2.25F * kHeadDim / kKltGroup);
  EXPECT_GT(head.keys.group_bits[0], 3.0F);
  EXPECT_EQ(Named("klt2").Calibrate(made.sample).hash, tables.hash);
}

TEST(KltCodec, BitsOfValuesThatAreNotWholeGoToTheFirstGroups) {
  const RunShape shape{1, kHeadDim, 1};
  const CodecTables tables = Named("klt1.8").Calibrate(MakeLookalike(9, shape).sample);
  const auto head = KltTablesOf(tables.values.data(), 0, kHeadDim);
  for (size_t group = 0; group < kHeadDim / kKltGroup; ++group) {
    EXPECT_EQ(head.values.group_bits[group], group < 6 ? 2.0F : 1.0F);
  }
}

TEST(KltCodec, BitsPerValueCountEverythingStored) {
  EXPECT_EQ(Named("klt4").BitsPerValue({3, 64, 128}), 4.25);
  EXPECT_EQ(Named("klt3").BitsPerValue({3, 64, 128}), 3.25);
  EXPECT_EQ(Named("klt2").BitsPerValue({3, 64, 128}), 2.25);
  EXPECT_EQ(Named("klt1.8").BitsPerValue({3, 64, 128}), 1.875);
  EXPECT_EQ(Named("klt1.8").BitsPerValue({3, 128, 128}), 1.8125);
}

TEST(KltScale, IsTheUpperBitsOfAHalf) {
  for (uint32_t code = 0; code <= 0xf7; ++code) {
    EXPECT_EQ(KltScaleCode(KltScale(static_cast<uint8_t>(code))), code);
  }
  EXPECT_EQ(KltScale(0), 0.0F);
  for (float scale = 1e-4F; scale < 6e4F; scale *= 1.01F) {
    EXPECT_NEAR(KltScale(KltScaleCode(scale)) / scale, 1.0, 1.0 / 16.0);
  }
  EXPECT_EQ(KltScale(KltScaleCode(1e30F)), 61'440.0F);
}

// Values whose channel 5 is 20 times as large as the others.
Lookalike WithALargeChannel(const RunShape& shape) {
  Lookalike made = MakeLookalike(21, shape);
  for (std::vector<float>* v : {&made.sample.v, &made.tokens.v}) {
    for (size_t i = 5; i < v->size(); i += kHeadDim) {
      (*v)[i] *= 20.0F;
    }
  }
  return made;
}

// Of one channel, over all tokens and heads.
struct ChannelError {
  double square = 0.0;  // mean square of the error
  double slope = 0.0;   // of what is decoded against what was encoded
};

std::vector<ChannelError> ValueErrors(const Codec& codec,
                                      const RunShape& shape,
                                      const Lookalike& made) {
  CodecTables tables;
  RunContext context;
  if (codec.needs_tables()) {
    tables = codec.Calibrate(made.sample);
    context.tables = &tables;
  }
  const std::vector<float>& v = made.tokens.v;
  std::vector<std::byte> bytes(codec.EncodedBytes(shape, context.tables));
  codec.Encode(shape,
               0,
               shape.token_capacity,
               made.tokens.k.data(),
               v.data(),
               TokenValues(shape),
               context,
               bytes);
  Tokens decoded = made.tokens;
  codec.Decode(shape, 0, shape.token_capacity, bytes, context, decoded.k.data(), decoded.v.data());
  std::vector<ChannelError> errors(kHeadDim);
  for (size_t channel = 0; channel < kHeadDim; ++channel) {
    double square = 0.0;
    double product = 0.0;
    for (size_t i = channel; i < v.size(); i += kHeadDim) {
      const double difference = static_cast<double>(decoded.v[i]) - v[i];
      errors[channel].square += difference * difference * kHeadDim / static_cast<double>(v.size());
      product += static_cast<double>(decoded.v[i]) * v[i];
      square += static_cast<double>(v[i]) * v[i];
    }
    errors[channel].slope = product / square;
  }
  return errors;
}

TEST(KltCodec, LargeChannelsOfValuesDisturbTheOthersFarLessThanInARotation) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = WithALargeChannel(shape);
  const std::vector<ChannelError> evened = ValueErrors(Named("klt2"), shape, made);
  const std::vector<ChannelError> rotated = ValueErrors(Named("rot2"), shape, made);
  for (size_t channel = 0; channel < kHeadDim; ++channel) {
    if (channel != 5) {
      EXPECT_LT(evened[channel].square, 0.4 * rotated[channel].square) << channel;
    }
  }
}

TEST(KltCodec, WhatEvensOutChannelsIsUndone) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = WithALargeChannel(shape);
  const CodecTables tables = Named("klt4").Calibrate(made.sample);
  const auto head = KltTablesOf(tables.values.data(), 0, kHeadDim);
  EXPECT_NEAR(head.evenness[5] / head.evenness[6], std::sqrt(20.0), 1.0);
  for (const ChannelError& error : ValueErrors(Named("klt4"), shape, made)) {
    EXPECT_NEAR(error.slope, 1.0, 0.1);
  }
}

TEST(KltCodec, AScaleOfAByteCostsNormalValuesNothing) {
  // The distortion of the optimal quantiser of known variance (J. Max, 1960), and rows of 64 values
  // have their own: a little less.
  const RunShape shape{4, kHeadDim, 128};
  Lookalike made = MakeLookalike(23, shape);
  Rng rng(25);
  for (std::vector<float>* v : {&made.sample.v, &made.tokens.v}) {
    for (float& value : *v) {
      value = rng.NextNormal();
    }
  }
  for (const auto& [name, most] :
       {std::pair{"klt4", 0.0095}, {"klt3", 0.03454}, {"klt2", 0.1175}}) {
    double mean = 0.0;
    for (const ChannelError& error : ValueErrors(Named(name), shape, made)) {
      mean += error.square / kHeadDim;
    }
    EXPECT_LT(mean, most) << name;
    EXPECT_GT(mean, 0.8 * most) << name;
  }
}

// Tables that no calibration's rounding can change: keys in the order of a permutation, each
// dimension with its own weight.
CodecTables FixedTables(KltRate rate, size_t num_kv_heads) {
  CodecTables tables;
  tables.values.resize(KltTableFloats(num_kv_heads, kHeadDim));
  for (size_t head = 0; head < num_kv_heads; ++head) {
    const auto own = KltTablesOf(tables.values.data(), head, kHeadDim);
    for (size_t i = 0; i < kHeadDim; ++i) {
      const size_t dim = (i * 5 + head) % kHeadDim;
      const float weight = 1.0F / static_cast<float>(dim / kKltGroup + 1);
      own.mean[i] = static_cast<float>(i % 7) / 8.0F;
      own.keys.weights[dim] = weight;
      own.values.weights[i] = 1.0F;
      own.forward[i * kHeadDim + dim] = 1.0F / weight;
      own.inverse[dim * kHeadDim + i] = weight;
      own.evenness[i] = 1.0F + static_cast<float>(i % 3);
    }
    for (const auto& [side, quarters] :
         {std::pair{own.keys, rate.keys}, std::pair{own.values, rate.values}}) {
      const size_t bytes = KltRowBytes(quarters, kHeadDim);
      for (size_t group = 0; group < kHeadDim / kKltGroup; ++group) {
        side.group_bits[group] = static_cast<float>(bytes / 8 + (group < bytes % 8 ? 1 : 0));
      }
      for (size_t bits = 1; bits <= kKltMaxBits; ++bits) {
        for (size_t code = 0; code < size_t{1} << bits; ++code) {
          side.levels[KltLevelsAt(bits) + code] =
              (static_cast<float>(2 * code + 1) / static_cast<float>(size_t{1} << bits) - 1.0F) *
              2.0F;
        }
      }
    }
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(KltCodec, BytesAreThoseOfTheThirdVersion) {
  const RunShape shape{2, kHeadDim, 70};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 64 * 70; ++i) {
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  struct Golden {
    const char* name;
    KltRate rate;
    uint64_t hash;
  };
  for (const Golden& golden : {Golden{"klt4", {17, 16}, 8454635379509297404U},
                               Golden{"klt3", {13, 12}, 14791930234599989894U},
                               Golden{"klt2", {9, 8}, 9380832827422428175U},
                               Golden{"klt1.8", {7, 7}, 13719989875278415627U}}) {
    const Codec& codec = Named(golden.name);
    ASSERT_EQ(codec.version(), 3);
    const CodecTables tables = FixedTables(golden.rate, 2);
    ASSERT_TRUE(codec.TablesAreSound(tables.values, 2, kHeadDim));
    std::vector<std::byte> bytes(codec.EncodedBytes(shape));
    codec.Encode(shape,
                 0,
                 shape.token_capacity,
                 tokens.k.data(),
                 tokens.v.data(),
                 TokenValues(shape),
                 {.tables = &tables},
                 bytes);
    EXPECT_EQ(Hash64(bytes), golden.hash) << golden.name;
  }
}

}  // namespace
}  // namespace varve
