#include "kernels/codec/row_codec.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/pack_codes.h"
#include "kernels/cpu/simd_targets.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"

namespace varve {
namespace {

class RowCodecOnTarget : public testing::Test {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_F(RowCodecOnTarget, Int8BytesAreThoseOfTheScalarMeaning) {
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

TEST_F(RowCodecOnTarget, RowCodecsWriteTheBytesOfTheirScalarMeaning) {
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

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(RowCodec, BytesAreThoseOfTheirVersion) {
  const RunShape shape{2, 64, 5};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 64 * 5; ++i) {
    // Exact in fp32, and the same on every machine.
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  const std::tuple<const char*, int, uint64_t> golden[] = {
      {"int8", 1, 14800462586359411589U},
      {"fp8", 1, 16998307666557616183U},
      {"int4", 1, 13963606715365393381U},
      {"int3", 1, 9941389989186464127U},
      {"int2", 1, 16293233706848762438U},
      {"rot4", 2, 7075514677823599339U},
      {"rot3", 2, 10330861818349085366U},
      {"rot2", 2, 5475865119050387008U},
  };
  for (const auto& [name, version, hash] : golden) {
    const Codec& codec = *FindCodec(name).value();
    ASSERT_EQ(codec.version(), version);
    const std::vector<std::byte> bytes = EncodeAll(codec, shape, tokens);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    EXPECT_EQ(Hash64(text), hash) << name;
  }
}

}  // namespace
}  // namespace varve
