#include "kernels/codec/codec.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/bf16_block.h"
#include "kernels/codec/fp8_block.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/int_block.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/cpu/simd_targets.h"
#include "kernels/dense.h"
#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr RunShape kShapes[] = {{1, 8, 1}, {2, 64, 128}, {3, 80, 33}, {1, 256, 40}, {2, 20, 7}};

struct Tokens {
  std::vector<float> k;
  std::vector<float> v;
};

// `kind`: 0 normal, 1 heavy tailed, 2 constant, 3 tiny, 4 huge, 5 zeros.
Tokens MakeTokens(const RunShape& shape, int kind, uint64_t seed) {
  Rng rng(seed);
  const auto value = [&rng, kind]() -> float {
    const float x = rng.NextNormal();
    switch (kind) {
      case 1:
        return x * x * x * std::exp(3.0F * rng.NextNormal());
      case 2:
        return 0.75F;
      case 3:
        return x * 1e-38F;
      case 4:
        return x * 1e37F;
      case 5:
        return 0.0F;
      default:
        return x;
    }
  };
  Tokens tokens;
  const size_t count =
      static_cast<size_t>(shape.token_capacity) * shape.num_kv_heads * shape.head_dim;
  for (size_t i = 0; i < count; ++i) {
    tokens.k.push_back(value());
    tokens.v.push_back(value());
  }
  return tokens;
}

size_t TokenValues(const RunShape& shape) {
  return static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
}

std::vector<std::byte> EncodeAll(const Codec& codec, const RunShape& shape, const Tokens& tokens) {
  std::vector<std::byte> out(codec.EncodedBytes(shape), std::byte{0xee});
  codec.Encode(shape,
               0,
               shape.token_capacity,
               tokens.k.data(),
               tokens.v.data(),
               TokenValues(shape),
               nullptr,
               out);
  return out;
}

Tokens DecodeAll(const Codec& codec, const RunShape& shape, std::span<const std::byte> encoded) {
  Tokens tokens;
  tokens.k.resize(TokenValues(shape) * shape.token_capacity);
  tokens.v.resize(tokens.k.size());
  codec.Decode(shape, 0, shape.token_capacity, encoded, nullptr, tokens.k.data(), tokens.v.data());
  return tokens;
}

struct RowRange {
  double smallest = 0.0;
  double largest = 0.0;
  double magnitude = 0.0;  // largest
  double norm = 0.0;
};

template <typename Sanitize>
RowRange RangeOf(std::span<const float> row, Sanitize sanitize) {
  RowRange range{.smallest = INFINITY, .largest = -INFINITY};
  for (const float value : row) {
    const double x = sanitize(value);
    range.smallest = std::min(range.smallest, x);
    range.largest = std::max(range.largest, x);
    range.magnitude = std::max(range.magnitude, std::fabs(x));
    range.norm += x * x;
  }
  range.norm = std::sqrt(range.norm);
  return range;
}

constexpr double kHalfStep = 3e-8;  // of the subnormal halves

// How far codecs may be off, of a row with this range, for the value `x` of it.
double IntBound(int bits, const RowRange& row) {
  const double offset_error = std::fabs(row.smallest) / 2048.0 + kHalfStep;
  const double range = row.largest - row.smallest + offset_error;
  const double scale = range / ((1 << bits) - 1) * (1.0 + 1.0 / 1024.0) + 2 * kHalfStep;
  return scale / 2.0 + offset_error;
}

double Fp8Bound(const RowRange& row, double x) {
  const double scale = row.magnitude / kFp8Largest * (1.0 + 1.0 / 1024.0) + 2 * kHalfStep;
  return std::fabs(x) / 16.0 * (1.0 + 1e-6) + scale / 1024.0;
}

// What a codec promises for one value of a row of `head_dim` values.
double ErrorBound(const Codec& codec, std::span<const float> row, float value) {
  const RowRange whole = RangeOf(row, [](float x) { return x; });
  const RowRange range = RangeOf(row, F16Sanitize);
  const double x = F16Sanitize(value);
  const double cut = std::fabs(value - x);
  switch (codec.id()) {
    case CodecId::kF32:
      return 0.0;
    case CodecId::kBf16:
      return std::fabs(value) / 256.0 + 1e-40;
    case CodecId::kInt8:
      return whole.magnitude / 127.0 * (1.0 + 1.0 / 128.0) / 2.0 * (1.0 + 1e-6) + 1e-40;
    case CodecId::kFp8:
      return cut + Fp8Bound(range, x);
    case CodecId::kInt4:
      return cut + IntBound(4, range);
    case CodecId::kInt3:
      return cut + IntBound(3, range);
    case CodecId::kInt2:
      return cut + IntBound(2, range);
    case CodecId::kRot4:
    case CodecId::kRot3:
    case CodecId::kRot2:
      return cut + range.norm * 1.001 + 1e-15;
  }
  return NAN;
}

class CodecOnTarget : public testing::Test {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_F(CodecOnTarget, DecodedValuesAreWithinTheBound) {
  for (const Codec* codec : AllCodecs()) {
    for (const RunShape& shape : kShapes) {
      for (int kind = 0; kind <= 5; ++kind) {
        const Tokens tokens = MakeTokens(shape, kind, 17 + kind);
        const Tokens decoded = DecodeAll(*codec, shape, EncodeAll(*codec, shape, tokens));
        for (size_t i = 0; i < tokens.k.size(); ++i) {
          const size_t row = i / shape.head_dim * shape.head_dim;
          const std::span<const float> k_row(tokens.k.data() + row, shape.head_dim);
          const std::span<const float> v_row(tokens.v.data() + row, shape.head_dim);
          ASSERT_LE(std::fabs(static_cast<double>(decoded.k[i]) - tokens.k[i]),
                    ErrorBound(*codec, k_row, tokens.k[i]))
              << codec->name() << " kind " << kind << " value " << tokens.k[i];
          ASSERT_LE(std::fabs(static_cast<double>(decoded.v[i]) - tokens.v[i]),
                    ErrorBound(*codec, v_row, tokens.v[i]))
              << codec->name() << " kind " << kind << " value " << tokens.v[i];
        }
      }
    }
  }
}

TEST_F(CodecOnTarget, EveryTargetWritesTheSameBytesAndReadsTheSameValues) {
  for (const Codec* codec : AllCodecs()) {
    for (const RunShape& shape : kShapes) {
      for (int kind = 0; kind <= 5; ++kind) {
        const Tokens tokens = MakeTokens(shape, kind, 91 + kind);
        UseBestSimdTarget();
        const std::vector<std::byte> bytes = EncodeAll(*codec, shape, tokens);
        const Tokens decoded = DecodeAll(*codec, shape, bytes);
        for (const SimdTarget& target : SimdTargets()) {
          ForceSimdTarget(target);
          EXPECT_EQ(EncodeAll(*codec, shape, tokens), bytes) << codec->name() << " " << target.name;
          const Tokens again = DecodeAll(*codec, shape, bytes);
          EXPECT_EQ(again.k, decoded.k) << codec->name() << " " << target.name;
          EXPECT_EQ(again.v, decoded.v) << codec->name() << " " << target.name;
        }
      }
    }
  }
}

TEST_F(CodecOnTarget, Int8BytesAreThoseOfTheScalarMeaning) {
  const Codec& codec = *FindCodec(CodecId::kInt8).value();
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const RunShape& shape : kShapes) {
      Tokens tokens = MakeTokens(shape, 1, 5);
      tokens.k[0] = std::numeric_limits<float>::quiet_NaN();
      tokens.v[1] = std::numeric_limits<float>::infinity();
      tokens.v.back() = -std::numeric_limits<float>::infinity();
      const std::vector<std::byte> bytes = EncodeAll(codec, shape, tokens);
      const size_t head_dim = shape.head_dim;
      for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
        const RowLayout at = RowLayoutOfHead(Int8Format(head_dim), head, shape.token_capacity);
        for (int32_t token = 0; token < shape.token_capacity; ++token) {
          const float* row = tokens.v.data() + token * TokenValues(shape) + head * head_dim;
          float largest = 0.0F;
          for (size_t i = 0; i < head_dim; ++i) {
            largest = std::max(largest, std::fabs(Int8Sanitize(row[i])));
          }
          uint16_t scale;
          std::memcpy(&scale, bytes.data() + at.v_params + token * sizeof(scale), sizeof(scale));
          ASSERT_EQ(scale, Int8Scale(largest));
          for (size_t i = 0; i < head_dim; ++i) {
            const std::byte code = bytes[at.v_codes + token * head_dim + i];
            ASSERT_EQ(static_cast<int8_t>(code), Int8Code(row[i], scale))
                << target.name << " value " << row[i];
          }
        }
      }
    }
  }
}

// Bytes of one row of a single-token run with one kv head, as the codec's scalar text has them.
std::vector<std::byte> ScalarRow(const Codec& codec, std::span<const float> row) {
  const size_t head_dim = row.size();
  const RowRange range = RangeOf(row, F16Sanitize);
  std::vector<std::byte> codes;
  uint16_t params[2] = {};
  size_t num_params = 1;
  if (codec.id() == CodecId::kFp8) {
    codes.resize(Fp8Format(head_dim).row_bytes);
    params[0] = Fp8Scale(static_cast<float>(range.magnitude));
    for (size_t i = 0; i < head_dim && params[0] != 0; ++i) {
      codes[i] = static_cast<std::byte>(FloatToFp8(F16Sanitize(row[i]) / F16ToFloat(params[0])));
    }
  } else {
    const size_t bits = codec.id() == CodecId::kInt4 ? 4 : (codec.id() == CodecId::kInt3 ? 3 : 2);
    num_params = 2;
    codes.resize(IntFormat(bits, head_dim).row_bytes);
    params[kIntOffset] = FloatToF16(static_cast<float>(range.smallest) + 0.0F);
    const float offset = F16ToFloat(params[kIntOffset]);
    params[kIntScale] = IntScale(bits, static_cast<float>(range.largest), offset);
    for (size_t i = 0; i < head_dim; ++i) {
      PackCode(codes.data(),
               bits,
               head_dim,
               i,
               IntCode(bits, row[i], F16ToFloat(params[kIntScale]), offset));
    }
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(params);
  codes.insert(codes.end(), bytes, bytes + num_params * sizeof(uint16_t));
  return codes;
}

TEST_F(CodecOnTarget, RowCodecsWriteTheBytesOfTheirScalarMeaning) {
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const CodecId id : {CodecId::kFp8, CodecId::kInt4, CodecId::kInt3, CodecId::kInt2}) {
      const Codec& codec = *FindCodec(id).value();
      for (const int32_t head_dim : {8, 20, 64, 80, 128, 256}) {
        for (int kind = 0; kind <= 5; ++kind) {
          const RunShape shape{1, head_dim, 1};
          Tokens tokens = MakeTokens(shape, kind, 7 + kind);
          if (kind == 1) {
            tokens.k[0] = std::numeric_limits<float>::quiet_NaN();
            tokens.k[3] = -std::numeric_limits<float>::infinity();
          }
          tokens.v = tokens.k;
          const std::vector<std::byte> row = ScalarRow(codec, tokens.k);
          const std::vector<std::byte> bytes = EncodeAll(codec, shape, tokens);
          ASSERT_EQ(bytes.size(), 2 * row.size());
          const size_t num_codes =
              codec.EncodedBytes(shape) / 2 - (id == CodecId::kFp8 ? 1 : 2) * sizeof(uint16_t);
          // K codes, V codes, K params, V params.
          std::vector<std::byte> expected(row.begin(), row.begin() + num_codes);
          expected.insert(expected.end(), row.begin(), row.begin() + num_codes);
          expected.insert(expected.end(), row.begin() + num_codes, row.end());
          expected.insert(expected.end(), row.begin() + num_codes, row.end());
          ASSERT_EQ(bytes, expected)
              << codec.name() << " " << target.name << " head_dim " << head_dim << " kind " << kind;
        }
      }
    }
  }
}

// Squared error of the codec over the squared norm, of rows of 128 values.
double RelativeError(const Codec& codec, const Tokens& tokens, const RunShape& shape) {
  const Tokens decoded = DecodeAll(codec, shape, EncodeAll(codec, shape, tokens));
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < tokens.k.size(); ++i) {
    error += std::pow(static_cast<double>(decoded.k[i]) - tokens.k[i], 2);
    norm += std::pow(static_cast<double>(tokens.k[i]), 2);
  }
  return error / norm;
}

TEST(RotCodec, ReachesTheDistortionOfTheOptimalQuantiser) {
  const RunShape shape{4, 128, 256};
  const Tokens tokens = MakeTokens(shape, 0, 101);
  // J. Max, "Quantizing for minimum distortion", 1960, table I. Rows are normalised by their own
  // norm, which makes them a little easier than normal numbers.
  const std::pair<const char*, double> cases[] = {
      {"rot4", 0.009497}, {"rot3", 0.03454}, {"rot2", 0.1175}};
  for (const auto& [name, distortion] : cases) {
    const double error = RelativeError(*FindCodec(name).value(), tokens, shape);
    EXPECT_LT(error, 1.005 * distortion) << name;
    EXPECT_GT(error, 0.94 * distortion) << name;
  }
}

TEST(RotCodec, OutlierChannelsCostNothing) {
  const RunShape shape{4, 128, 256};
  Tokens tokens = MakeTokens(shape, 0, 102);
  for (size_t i = 0; i < tokens.k.size(); ++i) {
    tokens.k[i] *= i % 128 == 5 || i % 128 == 77 ? 20.0F : 1.0F;
  }
  const double rotated = RelativeError(*FindCodec("rot3").value(), tokens, shape);
  const double plain = RelativeError(*FindCodec("int3").value(), tokens, shape);
  EXPECT_LT(rotated, 0.06);
  EXPECT_LT(rotated, 0.75 * plain);
}

TEST(PackCodes, EightAtATimeEqualOneByOne) {
  for (const size_t bits : {1, 2, 3, 4, 8}) {
    for (const size_t head_dim : {1, 8, 20, 64, 80, 256}) {
      Rng rng(bits * 1000 + head_dim);
      RowCodes row{};
      std::vector<std::byte> one_by_one(PackedBytes(bits, head_dim));
      for (size_t i = 0; i < head_dim; ++i) {
        row.codes[i] = static_cast<uint8_t>(rng.Below(1U << bits));
        PackCode(one_by_one.data(), bits, head_dim, i, row.codes[i]);
      }
      std::vector<std::byte> packed(one_by_one.size(), std::byte{0xee});
      PackRow(row, bits, head_dim, packed.data());
      EXPECT_EQ(packed, one_by_one);
      RowCodes unpacked;
      UnpackRow(packed.data(), bits, head_dim, &unpacked);
      for (size_t i = 0; i < head_dim; ++i) {
        ASSERT_EQ(unpacked.codes[i], row.codes[i]);
        ASSERT_EQ(UnpackCode(packed.data(), bits, head_dim, i), row.codes[i]);
      }
    }
  }
}

TEST(F16, ScalarRoundsToNearestEvenOnEveryHalf) {
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const float value = F16ToFloat(static_cast<uint16_t>(half));
    ASSERT_EQ(FloatToF16(value), half);
    ASSERT_EQ(FloatToF16(-value), half | 0x8000U);
    const float next = F16ToFloat(static_cast<uint16_t>(half + 1));
    if (half + 1 < 0x7c00) {
      const float tie = value + (next - value) / 2;
      ASSERT_EQ(FloatToF16(tie), half + (half & 1U)) << half;
      ASSERT_EQ(FloatToF16(std::nextafter(tie, 0.0F)), half) << half;
      ASSERT_EQ(FloatToF16(std::nextafter(tie, INFINITY)), half + 1) << half;
    }
  }
  EXPECT_EQ(FloatToF16(65520.0F), 0x7c00);
  EXPECT_EQ(F16ToFloat(0xfc00), -INFINITY);
  EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(NAN))));
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
    EXPECT_LT(decoded.v[0], codec->id() == CodecId::kInt8 ? -2.9e38F : -2e4F) << codec->name();
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
                    nullptr,
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
    std::vector<std::byte> out(codec->EncodedBytes(shape));
    codec->Encode(
        shape, 0, shape.token_capacity, wide.k.data(), wide.v.data(), stride, nullptr, out);
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
    codec->Decode(shape, 11, 5, bytes, nullptr, k.data(), v.data());
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
    std::vector<std::byte> once(codec.EncodedBytes(shape), std::byte{0x11});
    std::vector<std::byte> again(codec.EncodedBytes(shape), std::byte{0x77});
    codec.Encode(shape, 0, 7, tokens.k.data(), tokens.v.data(), TokenValues(shape), nullptr, once);
    codec.Encode(shape, 0, 7, tokens.k.data(), tokens.v.data(), TokenValues(shape), nullptr, again);
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
    EXPECT_DEATH(codec->Encode(shape, 0, 4, tokens.k.data(), tokens.v.data(), 8, nullptr, small),
                 "EncodedBytes");
  }
}

}  // namespace
}  // namespace varve
