// think: which channels it keeps, what becomes of the others, and that its bytes stay.
#include <cmath>
#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/think_block.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"
#include "tests/kernels/lookalike.h"

namespace varve {
namespace {

constexpr int32_t kHeadDim = 64;

const Codec& Think() {
  return *FindCodec("think").value();
}

// Tables of one head whose queries notice channels as `norm` says.
template <typename Norm>
CodecTables TablesOf(int32_t head_dim, Norm norm) {
  CodecTables tables;
  for (int32_t i = 0; i < head_dim; ++i) {
    tables.values.push_back(norm(i));
  }
  return tables;
}

// Keys of one head, channel i of which is about 10 and differs by about width(i).
template <typename Width>
Tokens KeysOf(uint64_t seed, const RunShape& shape, Width width) {
  Rng rng(seed);
  Tokens tokens;
  for (int32_t i = 0; i < shape.token_capacity * shape.head_dim; ++i) {
    tokens.k.push_back(10.0F + width(i % shape.head_dim) * rng.NextNormal());
    tokens.v.push_back(rng.NextNormal());
  }
  return tokens;
}

struct Coded {
  std::vector<std::byte> bytes;
  Tokens decoded;

  bool Keeps(size_t channel) const {
    return (static_cast<uint32_t>(bytes[channel / 8]) >> channel % 8 & 1U) != 0;
  }
};

Coded Code(const RunShape& shape, const Tokens& tokens, const CodecTables& tables) {
  const RunContext context{.tables = &tables};
  Coded coded{std::vector<std::byte>(Think().EncodedBytes(shape, &tables)), tokens};
  Think().Encode(shape,
                 0,
                 shape.token_capacity,
                 tokens.k.data(),
                 tokens.v.data(),
                 TokenValues(shape),
                 context,
                 coded.bytes);
  Think().Decode(shape,
                 0,
                 shape.token_capacity,
                 coded.bytes,
                 context,
                 coded.decoded.k.data(),
                 coded.decoded.v.data());
  return coded;
}

TEST(ThinkCodec, KeepsTheChannelsThatDifferAndAreNoticed) {
  const RunShape shape{1, kHeadDim, 128};
  const CodecTables alike = TablesOf(kHeadDim, [](int32_t) { return 1.0F; });
  // The choice is the run's own: with the same tables another run keeps other channels.
  const Coded even =
      Code(shape, KeysOf(1, shape, [](int32_t i) { return i % 2 == 0 ? 2.0F : 1.0F; }), alike);
  const Coded low =
      Code(shape, KeysOf(2, shape, [](int32_t i) { return i < 32 ? 2.0F : 1.0F; }), alike);
  // Queries that notice odd channels three times as much outweigh keys twice as wide.
  const Coded noticed =
      Code(shape,
           KeysOf(1, shape, [](int32_t i) { return i % 2 == 0 ? 2.0F : 1.0F; }),
           TablesOf(kHeadDim, [](int32_t i) { return i % 2 == 0 ? 1.0F : 3.0F; }));
  for (size_t i = 0; i < kHeadDim; ++i) {
    EXPECT_EQ(even.Keeps(i), i % 2 == 0) << i;
    EXPECT_EQ(low.Keeps(i), i < 32) << i;
    EXPECT_EQ(noticed.Keeps(i), i % 2 == 1) << i;
  }
}

TEST(ThinkCodec, OfEqualChannelsTheLowerStay) {
  const RunShape shape{1, kHeadDim, 3};
  const Tokens equal{std::vector<float>(3 * kHeadDim, 1.5F), std::vector<float>(3 * kHeadDim)};
  const Coded coded = Code(shape, equal, TablesOf(kHeadDim, [](int32_t) { return 1.0F; }));
  for (size_t i = 0; i < kHeadDim; ++i) {
    EXPECT_EQ(coded.Keeps(i), i < ThinkKept(kHeadDim)) << i;
  }
  EXPECT_EQ(coded.decoded.k, equal.k);
}

TEST(ThinkCodec, PrunedChannelsDecodeToTheirMeanOverTheRun) {
  const RunShape shape{1, kHeadDim, 100};
  const Tokens tokens = KeysOf(3, shape, [](int32_t i) { return i < 32 ? 0.5F : 2.0F; });
  const Coded coded = Code(shape, tokens, TablesOf(kHeadDim, [](int32_t) { return 1.0F; }));
  for (size_t i = 0; i < kHeadDim; ++i) {
    double mean = 0.0;
    double error = 0.0;
    for (size_t t = 0; t < 100; ++t) {
      mean += tokens.k[t * kHeadDim + i] / 100.0;
      error += std::pow(coded.decoded.k[t * kHeadDim + i] - tokens.k[t * kHeadDim + i], 2) / 100.0;
    }
    if (i < 32) {
      for (size_t t = 0; t < 100; ++t) {
        EXPECT_NEAR(coded.decoded.k[t * kHeadDim + i], mean, 0.01);
      }
      EXPECT_LT(error, 0.5);  // of zeros it would be 100
    } else {
      EXPECT_LT(error, 0.05 * 4.0);
    }
  }
}

TEST(ThinkCodec, LosesLessThanItsBitsInEqualSteps) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = MakeLookalike(4, shape);
  // Keys take 2.6 bits.
  EXPECT_LT(ScoreError(Think(), shape, made),
            0.5 * ScoreError(*FindCodec("int2").value(), shape, made));
}

TEST(ThinkCodec, BitsPerValueCountEverythingStored) {
  // Keys: half of the channels, a scale and an offset; mask and means once in a run.
  const auto bits = [](double head_dim, double tokens) {
    return (4.0 / 2.0 + 4.0 + 2.0 * 32.0 / head_dim + 17.0 / tokens) / 2.0;
  };
  EXPECT_DOUBLE_EQ(Think().BitsPerValue({3, 64, 128}), bits(64, 128));
  EXPECT_DOUBLE_EQ(Think().BitsPerValue({8, 128, 128}), bits(128, 128));
  EXPECT_DOUBLE_EQ(Think().BitsPerValue({3, 64, 124}), bits(64, 124));
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(ThinkCodec, BytesAreThoseOfTheFirstVersion) {
  const RunShape shape{2, kHeadDim, 70};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 64 * 70; ++i) {
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  const CodecTables tables =
      TablesOf(2 * kHeadDim, [](int32_t i) { return 1.0F + static_cast<float>(i % 4); });
  ASSERT_EQ(Think().version(), 1);
  EXPECT_EQ(Hash64(Code(shape, tokens, tables).bytes), 49667953414522917U);
}

TEST(ThinkCodec, AMaskThatNamesTooManyChannelsIsCutShort) {
  const std::vector<std::byte> all(8, std::byte{0xff});
  int32_t places[kHeadDim];
  ThinkPlaces(all.data(), kHeadDim, places);
  for (int32_t i = 0; i < kHeadDim; ++i) {
    EXPECT_EQ(places[i], std::min(i, 32));
  }
  const RunShape shape{1, kHeadDim, 40};
  const CodecTables tables = TablesOf(kHeadDim, [](int32_t) { return 1.0F; });
  const RunContext context{.tables = &tables};
  const std::vector<std::byte> bytes(Think().EncodedBytes(shape, &tables), std::byte{0xff});
  std::vector<float> k(40 * kHeadDim, 7.0F);
  std::vector<float> v(k.size(), 7.0F);
  Think().Decode(shape, 0, 40, bytes, context, k.data(), v.data());
  EXPECT_NE(k, v);
  EXPECT_NE(k.back(), 7.0F);
}

}  // namespace
}  // namespace varve
