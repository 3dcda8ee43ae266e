#include "kernels/codec/codec.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/bf16_block.h"
#include "kernels/cpu/simd_targets.h"
#include "kernels/dense.h"
#include "proto/base/rng.h"
#include "tests/kernels/codec_cases.h"

namespace varve {
namespace {

class CodecOnTarget : public testing::Test {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_F(CodecOnTarget, DecodedValuesAreWithinTheBound) {
  for (const Codec* codec : AllCodecs()) {
    for (const RunShape& shape : ShapesFor(*codec)) {
      for (int kind = 0; kind <= 5; ++kind) {
        const Tokens tokens = MakeTokens(shape, kind, 17 + kind);
        const Tokens decoded = DecodeAll(*codec, shape, EncodeAll(*codec, shape, tokens));
        for (const bool is_key : {true, false}) {
          const std::vector<float>& x = is_key ? tokens.k : tokens.v;
          const std::vector<float>& actual = is_key ? decoded.k : decoded.v;
          const std::vector<Surroundings> around = AllSurroundings(*codec, shape, is_key, x);
          for (size_t i = 0; i < x.size(); ++i) {
            const Surroundings& row = around[SurroundingsOf(*codec, shape, is_key, i)];
            ASSERT_LE(std::fabs(static_cast<double>(actual[i]) - x[i]),
                      ErrorBound(*codec, row, x[i]))
                << codec->name() << " kind " << kind << " value " << x[i];
          }
        }
      }
    }
  }
}

void ExpectNear(const std::vector<float>& x,
                const std::vector<float>& expected,
                double tolerance,
                const std::string& where) {
  ASSERT_EQ(x.size(), expected.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_NEAR(x[i], expected[i], tolerance) << where;
  }
}

TEST_F(CodecOnTarget, EveryTargetWritesTheSameBytesAndReadsTheSameValues) {
  for (const Codec* codec : AllCodecs()) {
    for (const RunShape& shape : ShapesFor(*codec)) {
      for (int kind = 0; kind <= 5; ++kind) {
        const Tokens tokens = MakeTokens(shape, kind, 91 + kind);
        UseBestSimdTarget();
        const std::vector<std::byte> bytes = EncodeAll(*codec, shape, tokens);
        const Tokens decoded = DecodeAll(*codec, shape, bytes);
        for (const SimdTarget& target : SimdTargets()) {
          ForceSimdTarget(target);
          EXPECT_EQ(EncodeAll(*codec, shape, tokens), bytes) << codec->name() << " " << target.name;
          const Tokens again = DecodeAll(*codec, shape, bytes);
          // Sums over dimensions: targets differ by rounding.
          const bool both = codec->name().starts_with("pca") || codec->name() == "lorc";
          const double k_tolerance = both || codec->name().starts_with("klt") ? 3e-6 : 0.0;
          const double v_tolerance = both ? 3e-6 : 0.0;
          ExpectNear(again.k, decoded.k, k_tolerance * LargestMagnitude(decoded.k), target.name);
          ExpectNear(again.v, decoded.v, v_tolerance * LargestMagnitude(decoded.v), target.name);
        }
      }
    }
  }
}

TEST_F(CodecOnTarget, InfiniteAndNanInputsDecodeToNumbers) {
  const RunShape shape{1, 8, 1};
  for (const Codec* codec : AllCodecs()) {
    if (codec->appendable()) {
      continue;  // exact codecs keep them
    }
    Tokens tokens = MakeTokens(shape, 0, 3);
    tokens.k[0] = std::numeric_limits<float>::quiet_NaN();
    tokens.v[0] = -std::numeric_limits<float>::infinity();
    const Tokens decoded = DecodeAll(*codec, shape, EncodeAll(*codec, shape, tokens));
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_TRUE(std::isfinite(decoded.k[i]) && std::isfinite(decoded.v[i])) << codec->name();
    }
    if (codec->name().starts_with("pca")) {
      continue;  // a bit for each value need not tell which channel was so large
    }
    EXPECT_LT(decoded.v[0], codec->id() == CodecId::kInt8 ? -2.9e38F : -1e4F) << codec->name();
  }
  const Codec& int8 = *FindCodec(CodecId::kInt8).value();
  Tokens tokens = MakeTokens(shape, 0, 3);
  tokens.k[0] = std::numeric_limits<float>::quiet_NaN();
  const Tokens decoded = DecodeAll(int8, shape, EncodeAll(int8, shape, tokens));
  EXPECT_EQ(decoded.k[0], 0.0F);
  EXPECT_NEAR(decoded.k[1], tokens.k[1], 0.05);
}

TEST(Codec, BitsPerValueCountEverythingStored) {
  const RunShape shape{3, 64, 128};
  EXPECT_DOUBLE_EQ(FindCodec("f32").value()->BitsPerValue(shape), 32.0);
  EXPECT_DOUBLE_EQ(FindCodec("bf16").value()->BitsPerValue(shape), 16.0);
  // One bfloat16 scale per token, head and side.
  EXPECT_DOUBLE_EQ(FindCodec("int8").value()->BitsPerValue(shape), 8.0 + 16.0 / 64.0);
  EXPECT_DOUBLE_EQ(FindCodec("int8").value()->BitsPerValue({3, 128, 128}), 8.0 + 16.0 / 128.0);
  EXPECT_DOUBLE_EQ(FindCodec("fp8").value()->BitsPerValue(shape), 8.0 + 16.0 / 64.0);
  // A scale and an offset.
  EXPECT_DOUBLE_EQ(FindCodec("int4").value()->BitsPerValue(shape), 4.0 + 32.0 / 64.0);
  EXPECT_DOUBLE_EQ(FindCodec("int3").value()->BitsPerValue(shape), 3.0 + 32.0 / 64.0);
  EXPECT_DOUBLE_EQ(FindCodec("int2").value()->BitsPerValue(shape), 2.0 + 32.0 / 64.0);
  EXPECT_DOUBLE_EQ(FindCodec("rot4").value()->BitsPerValue(shape), 4.0 + 16.0 / 64.0);
  EXPECT_DOUBLE_EQ(FindCodec("rot3").value()->BitsPerValue(shape), 3.0 + 16.0 / 64.0);
  EXPECT_DOUBLE_EQ(FindCodec("rot2").value()->BitsPerValue({3, 128, 128}), 2.0 + 16.0 / 128.0);
}

TEST(Codec, AppendingTokensEqualsEncodingThemAtOnce) {
  for (const Codec* codec : AllCodecs()) {
    if (!codec->appendable()) {
      continue;
    }
    const RunShape shape{2, 32, 50};
    const Tokens tokens = MakeTokens(shape, 0, 23);
    const std::vector<std::byte> at_once = EncodeAll(*codec, shape, tokens);
    std::vector<std::byte> appended(at_once.size());
    for (int32_t token = 0, count = 1; token < shape.token_capacity;
         token += count, count = 1 + count % 4) {
      count = std::min(count, shape.token_capacity - token);
      const size_t offset = token * TokenValues(shape);
      codec->Encode(shape,
                    token,
                    count,
                    tokens.k.data() + offset,
                    tokens.v.data() + offset,
                    TokenValues(shape),
                    {},
                    appended);
    }
    EXPECT_EQ(appended, at_once) << codec->name();
  }
}

TEST(Codec, TokenStrideSkipsWhatIsNotOfTheRun) {
  for (const Codec* codec : AllCodecs()) {
    const RunShape shape{2, 16, 6};
    const Tokens tokens = MakeTokens(shape, 0, 29);
    const size_t stride = TokenValues(shape) + 13;
    Tokens wide;
    wide.k.assign(stride * shape.token_capacity, 1e9F);
    wide.v.assign(stride * shape.token_capacity, 1e9F);
    for (int32_t token = 0; token < shape.token_capacity; ++token) {
      std::copy_n(tokens.k.data() + token * TokenValues(shape),
                  TokenValues(shape),
                  wide.k.data() + token * stride);
      std::copy_n(tokens.v.data() + token * TokenValues(shape),
                  TokenValues(shape),
                  wide.v.data() + token * stride);
    }
    const RunContext context = ContextFor(*codec, shape);
    std::vector<std::byte> out(codec->EncodedBytes(shape, context.tables));
    codec->Encode(
        shape, 0, shape.token_capacity, wide.k.data(), wide.v.data(), stride, context, out);
    EXPECT_EQ(out, EncodeAll(*codec, shape, tokens)) << codec->name();
  }
}

TEST(Codec, PartsOfARunDecodeAlone) {
  for (const Codec* codec : AllCodecs()) {
    const RunShape shape{2, 24, 40};
    const std::vector<std::byte> bytes = EncodeAll(*codec, shape, MakeTokens(shape, 0, 31));
    const Tokens whole = DecodeAll(*codec, shape, bytes);
    std::vector<float> k(5 * TokenValues(shape));
    std::vector<float> v(k.size());
    codec->Decode(shape, 11, 5, bytes, ContextFor(*codec, shape), k.data(), v.data());
    EXPECT_TRUE(std::equal(k.begin(), k.end(), whole.k.begin() + 11 * TokenValues(shape)))
        << codec->name();
    EXPECT_TRUE(std::equal(v.begin(), v.end(), whole.v.begin() + 11 * TokenValues(shape)))
        << codec->name();
  }
}

TEST(Codec, RoomThatIsNotFilledIsZero) {
  for (const Codec* codec_pointer : AllCodecs()) {
    const Codec& codec = *codec_pointer;
    if (codec.appendable()) {
      continue;
    }
    const RunShape shape{2, 16, 10};
    const Tokens tokens = MakeTokens(shape, 0, 37);
    const RunContext context = ContextFor(codec, shape);
    std::vector<std::byte> once(codec.EncodedBytes(shape, context.tables), std::byte{0x11});
    std::vector<std::byte> again(codec.EncodedBytes(shape, context.tables), std::byte{0x77});
    codec.Encode(shape, 0, 7, tokens.k.data(), tokens.v.data(), TokenValues(shape), context, once);
    codec.Encode(shape, 0, 7, tokens.k.data(), tokens.v.data(), TokenValues(shape), context, again);
    EXPECT_EQ(once, again);
  }
}

TEST(Bf16, ScalarRoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(FloatToBf16(1.0F), 0x3f80);
  EXPECT_EQ(FloatToBf16(1.00390625F), 0x3f80);  // a tie: down to even
  EXPECT_EQ(FloatToBf16(1.01171875F), 0x3f82);  // a tie: up to even
  EXPECT_EQ(FloatToBf16(-2.5F), 0xc020);
  EXPECT_EQ(FloatToBf16(INFINITY), 0x7f80);
  EXPECT_EQ(FloatToBf16(3.4e38F), 0x7f80);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(NAN))));
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const float x = std::fabs(Rng(seed).NextNormal()) * 1e-20F;
    const float up = Bf16ToFloat(FloatToBf16RoundUp(x));
    EXPECT_GE(up, x);
    EXPECT_LE(up, x * (1.0F + 1.0F / 128.0F));
  }
}

TEST_F(CodecOnTarget, NarrowToBf16EqualsTheScalarOnEveryBitPattern) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 65536; ++high) {
    for (const uint32_t low : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      const uint32_t bits = high << 16 | low;
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      values.push_back(value);
    }
  }
  std::vector<uint16_t> expected;
  for (const float value : values) {
    expected.push_back(FloatToBf16(value));
  }
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    std::vector<uint16_t> narrow(values.size());
    NarrowToBf16(values.data(), values.size(), narrow.data());
    EXPECT_EQ(narrow, expected) << target.name;
  }
}

TEST(Registry, FindsEveryCodecByIdAndName) {
  for (const Codec* codec : AllCodecs()) {
    EXPECT_EQ(FindCodec(codec->id()).value(), codec);
    EXPECT_EQ(FindCodec(codec->name()).value(), codec);
    EXPECT_GE(codec->version(), 1);
  }
}

TEST(Registry, SaysWhatItHasWhenItDoesNotHaveIt) {
  const Result<const Codec*> by_name = FindCodec("int9");
  ASSERT_FALSE(by_name.has_value());
  EXPECT_EQ(by_name.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(by_name.error().message, testing::HasSubstr("f32, bf16, int8"));
  const Result<const Codec*> by_id = FindCodec(static_cast<CodecId>(999));
  ASSERT_FALSE(by_id.has_value());
  EXPECT_EQ(by_id.error().code, ErrorCode::kCodecMismatch);
  EXPECT_THAT(by_id.error().message, testing::HasSubstr("999"));
}

TEST(CodecDeathTest, RefusesABufferOfAnotherSize) {
  const RunShape shape{1, 8, 4};
  const Tokens tokens = MakeTokens(shape, 0, 1);
  for (const Codec* codec : AllCodecs()) {
    std::vector<std::byte> small(codec->EncodedBytes(shape) - 1);
    EXPECT_DEATH(codec->Encode(shape, 0, 4, tokens.k.data(), tokens.v.data(), 8, {}, small),
                 "EncodedBytes");
  }
}

}  // namespace
}  // namespace varve
