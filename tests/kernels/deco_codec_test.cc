// deco4: the factors, what they are good for, runs of every length, and that its bytes stay.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/deco_block.h"
#include "kernels/codec/deco_factors.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"

namespace varve {
namespace {

const Codec& Deco() {
  return *FindCodec("deco4").value();
}

// Error over what differs from the channels' means, both squared and summed.
double RelativeError(const Codec& codec, const RunShape& shape, const Tokens& tokens) {
  std::vector<std::byte> bytes(codec.EncodedBytes(shape));
  codec.Encode(shape,
               0,
               shape.token_capacity,
               tokens.k.data(),
               tokens.v.data(),
               TokenValues(shape),
               {},
               bytes);
  Tokens decoded = tokens;
  codec.Decode(shape, 0, shape.token_capacity, bytes, {}, decoded.k.data(), decoded.v.data());
  double error = 0.0;
  double energy = 0.0;
  for (size_t c = 0; c < TokenValues(shape); ++c) {
    double mean = 0.0;
    for (size_t i = c; i < tokens.k.size(); i += TokenValues(shape)) {
      mean += tokens.k[i] / static_cast<double>(shape.token_capacity);
    }
    for (size_t i = c; i < tokens.k.size(); i += TokenValues(shape)) {
      error += std::pow(static_cast<double>(decoded.k[i]) - tokens.k[i], 2);
      energy += std::pow(tokens.k[i] - mean, 2);
    }
  }
  return error / energy;
}

TEST(DecoFactors, MultiplyBackToTheMatrix) {
  for (const auto& [blocks, columns, num_tokens] :
       {std::tuple{8, 8, 128}, {16, 8, 124}, {2, 32, 4}, {1, 7, 3}, {16, 16, 1}}) {
    Rng rng(blocks + columns);
    const size_t count = static_cast<size_t>(blocks) * columns * num_tokens;
    std::vector<float> x(count);
    for (size_t i = 0; i < count; ++i) {
      const size_t block = i / columns % blocks;
      x[i] = rng.NextNormal() * (block == 1 ? 50.0F : 1.0F);
    }
    const DecoFactors factors = FactorDeco(x.data(), num_tokens, blocks, columns);
    std::vector<double> squares(blocks, 0.0);
    for (int t = 0; t < num_tokens; ++t) {
      for (int a = 0; a < blocks; ++a) {
        for (int b = 0; b < columns; ++b) {
          double sum = 0.0;
          for (int r = 0; r < blocks; ++r) {
            sum += static_cast<double>(factors.small[a * blocks + r]) *
                   factors.large[(t * blocks + r) * columns + b];
          }
          EXPECT_NEAR(sum, x[(t * blocks + a) * columns + b], 2e-4);
          squares[a] += std::pow(factors.large[(t * blocks + a) * columns + b], 2);
        }
      }
    }
    // Each row of the large factor is as wide as any other.
    for (const double square : squares) {
      if (num_tokens * columns >= blocks) {
        EXPECT_NEAR(square / (num_tokens * columns), 1.0, 1e-4);
      }
    }
  }
}

TEST(DecoFactors, OfNothingAreNothing) {
  const std::vector<float> zeros(128 * 64, 0.0F);
  const DecoFactors factors = FactorDeco(zeros.data(), 128, 8, 8);
  EXPECT_THAT(factors.small, testing::Each(0.0F));
  EXPECT_THAT(factors.large, testing::Each(0.0F));
  EXPECT_TRUE(FactorDeco(nullptr, 0, 8, 8).large.empty());
}

TEST(DecoCodec, TheSmallFactorTakesUpOutlyingBlocksAndMeans) {
  // As rotary pairs far apart are: a few blocks are wide, and channels have means.
  for (const int32_t head_dim : {64, 128}) {
    const RunShape shape{2, head_dim, 128};
    Tokens tokens = MakeTokens(shape, 0, 31);
    const size_t columns = DecoLayoutOf(head_dim, 128).columns;
    for (size_t i = 0; i < tokens.k.size(); ++i) {
      const size_t channel = i % head_dim;
      tokens.k[i] *= channel / columns % 4 == 1 ? 10.0F : 1.0F;
      tokens.k[i] += channel % 3 == 0 ? 20.0F : 0.0F;
    }
    const double deco = RelativeError(Deco(), shape, tokens);
    EXPECT_LT(deco, 0.013);
    EXPECT_LT(deco, 0.5 * RelativeError(*FindCodec("int4").value(), shape, tokens));
  }
}

TEST(DecoCodec, RunsOfEveryLengthComeBack) {
  for (const int32_t head_dim : {8, 20, 64, 80, 128, 256}) {
    for (const int32_t tokens : {2, 3, 4, 5, 16, 17, 63, 64, 124, 127, 128, 300}) {
      const RunShape shape{1, head_dim, tokens};
      EXPECT_LT(RelativeError(Deco(), shape, MakeTokens(shape, 0, tokens)), 0.02)
          << head_dim << " x " << tokens;
      // The small factor never costs more than a third of a bit.
      EXPECT_LE(Deco().BitsPerValue(shape),
                8.0 * PackedBytes(4, head_dim) / head_dim + 32.0 / head_dim + 16.0 / tokens +
                    std::max(1.0 / 3.0, 16.0 / (tokens * head_dim)));
    }
  }
  // One token is its own mean, but for the rounding to halves.
  const RunShape one{1, 64, 1};
  const Tokens tokens = MakeTokens(one, 0, 1);
  const Tokens decoded = DecodeAll(Deco(), one, EncodeAll(Deco(), one, tokens));
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_NEAR(decoded.v[i], tokens.v[i], 1e-3);
  }
}

TEST(DecoCodec, BitsPerValueCountEverythingStored) {
  EXPECT_DOUBLE_EQ(Deco().BitsPerValue({3, 64, 128}),
                   4.0 + 32.0 / 64.0 + 16.0 / 128.0 + 16.0 * 8 * 8 / (128.0 * 64.0));
  EXPECT_DOUBLE_EQ(Deco().BitsPerValue({8, 128, 128}),
                   4.0 + 32.0 / 128.0 + 16.0 / 128.0 + 16.0 * 16 * 16 / (128.0 * 128.0));
  EXPECT_DOUBLE_EQ(Deco().BitsPerValue({8, 128, 124}),
                   4.0 + 32.0 / 128.0 + 16.0 / 124.0 + 16.0 * 16 * 16 / (124.0 * 128.0));
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(DecoCodec, BytesAreThoseOfTheFirstVersion) {
  const std::pair<RunShape, uint64_t> golden[] = {{{2, 64, 128}, 2727240344636365447U},
                                                  {{1, 128, 124}, 2845575440863113881U},
                                                  {{2, 64, 4}, 13068097852503353905U}};
  for (const auto& [shape, hash] : golden) {
    Tokens tokens;
    for (uint32_t i = 0; i < TokenValues(shape) * shape.token_capacity; ++i) {
      tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
      tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
    }
    std::vector<std::byte> bytes(Deco().EncodedBytes(shape));
    Deco().Encode(shape,
                  0,
                  shape.token_capacity,
                  tokens.k.data(),
                  tokens.v.data(),
                  TokenValues(shape),
                  {},
                  bytes);
    ASSERT_EQ(Deco().version(), 1);
    EXPECT_EQ(Hash64(bytes), hash) << shape.head_dim << " x " << shape.token_capacity;
  }
}

TEST(DecoCodec, DamagedBytesDecodeToSomething) {
  const RunShape shape{2, 64, 70};
  const std::vector<std::byte> bytes(Deco().EncodedBytes(shape), std::byte{0xff});
  std::vector<float> k(70 * TokenValues(shape), 7.0F);
  std::vector<float> v(k.size(), 7.0F);
  Deco().Decode(shape, 0, 70, bytes, {}, k.data(), v.data());
  EXPECT_NE(k.front(), 7.0F);
  EXPECT_NE(v.back(), 7.0F);
}

}  // namespace
}  // namespace varve
