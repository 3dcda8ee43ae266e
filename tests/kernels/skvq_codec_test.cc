// skvq4 and skvq2: that each part of the method pays, and that their bytes stay.
#include <cmath>
#include <cstring>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/skvq_block.h"
#include "kernels/codec/skvq_calibration.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"
#include "tests/kernels/lookalike.h"

namespace varve {
namespace {

constexpr int32_t kHeadDim = 64;

// Values of which every second channel is ten times as wide as its neighbours.
CalibrationSample AlternatingSample(uint64_t seed, int64_t num_tokens) {
  Rng rng(seed);
  CalibrationSample sample{.num_kv_heads = 1, .head_dim = kHeadDim, .num_tokens = num_tokens};
  for (int64_t i = 0; i < num_tokens * kHeadDim; ++i) {
    const float width = i % 2 == 0 ? 1.0F : 10.0F;
    sample.k.push_back(width * rng.NextNormal() + static_cast<float>(i % kHeadDim));
    sample.v.push_back(width * rng.NextNormal());
  }
  for (int32_t i = 0; i < kHeadDim * kHeadDim; ++i) {
    sample.q_moment.push_back(i / kHeadDim == i % kHeadDim ? 1.0 : 0.0);
  }
  return sample;
}

// Mean squared error of the values of even channels.
double NarrowValueError(const Codec& codec, const CalibrationSample& like) {
  const RunShape shape{1, kHeadDim, 128};
  const CalibrationSample fresh = AlternatingSample(51, 128);
  CodecTables tables;
  if (codec.needs_tables()) {
    tables = codec.Calibrate(like);
  }
  const RunContext context{.tables = &tables};
  std::vector<std::byte> bytes(codec.EncodedBytes(shape));
  codec.Encode(shape, 0, 128, fresh.k.data(), fresh.v.data(), kHeadDim, context, bytes);
  std::vector<float> k(fresh.k.size());
  std::vector<float> v(fresh.v.size());
  codec.Decode(shape, 0, 128, bytes, context, k.data(), v.data());
  double sum = 0.0;
  for (size_t i = 0; i < v.size(); i += 2) {
    sum += std::pow(static_cast<double>(v[i]) - fresh.v[i], 2);
  }
  return 2.0 * sum / static_cast<double>(v.size());
}

TEST(SkvqCodec, SimilarChannelsShareAGroup) {
  const CalibrationSample sample = AlternatingSample(50, 1000);
  const CodecTables tables = CalibrateSkvq(sample, 2);
  for (const bool is_key : {true, false}) {
    const SkvqTables side = SkvqTablesOf(tables.values.data(), 0, is_key, kHeadDim);
    std::set<size_t> places;
    for (size_t i = 0; i < kHeadDim; ++i) {
      places.insert(SkvqPlace(side, i));
      EXPECT_EQ(SkvqGroupOf(side, kHeadDim, i), i % 2) << i;
      EXPECT_NEAR(side.centre[i], is_key ? static_cast<float>(i) : 0.0F, 1.5);
    }
    EXPECT_EQ(places.size(), 64U);
  }
  // Groups of the same size, but of neighbours.
  EXPECT_LT(NarrowValueError(*FindCodec("skvq2").value(), sample),
            0.05 * NarrowValueError(*FindCodec("kivi2g32").value(), sample));
}

TEST(SkvqCodec, ClipsFewBitsMore) {
  const CalibrationSample sample = AlternatingSample(52, 1000);
  const CodecTables two = CalibrateSkvq(sample, 2);
  const CodecTables four = CalibrateSkvq(sample, 4);
  for (const bool is_key : {true, false}) {
    const SkvqTables of_two = SkvqTablesOf(two.values.data(), 0, is_key, kHeadDim);
    const SkvqTables of_four = SkvqTablesOf(four.values.data(), 0, is_key, kHeadDim);
    for (size_t group = 0; group < SkvqGroups(kHeadDim); ++group) {
      EXPECT_GT(of_two.alphas[group], 0.5F);
      EXPECT_LT(of_two.alphas[group], 0.9F);
      EXPECT_GT(of_four.alphas[group], of_two.alphas[group]);
      EXPECT_LE(of_four.alphas[group], 1.0F);
    }
  }
}

// Clipping hurts the channels that are wide: where queries look only at those, less is cut off.
TEST(SkvqCodec, AlphasOfKeysFollowTheQueries) {
  Rng rng(53);
  CalibrationSample sample{.num_kv_heads = 1, .head_dim = 8, .num_tokens = 2000};
  for (int64_t i = 0; i < 2000 * 8; ++i) {
    sample.k.push_back((i % 8 == 3 ? 4.0F : 1.0F) * rng.NextNormal());
    sample.v.push_back(sample.k.back());
  }
  const auto alpha = [&](bool looks_at_wide) {
    sample.q_moment.assign(64, 0.0);
    for (size_t i = 0; i < 8; ++i) {
      sample.q_moment[i * 8 + i] = (i == 3) == looks_at_wide ? 1.0 : 0.0;
    }
    const CodecTables tables = CalibrateSkvq(sample, 2);
    return SkvqTablesOf(tables.values.data(), 0, /*is_key=*/true, 8).alphas[0];
  };
  EXPECT_GT(alpha(true), alpha(false) + 0.1F);
}

TEST(SkvqCodec, LosesLessThanEqualStepsOfAsManyBits) {
  const RunShape shape{2, kHeadDim, 128};
  const Lookalike made = MakeLookalike(54, shape);
  const auto error = [&](const char* name) {
    return ScoreError(*FindCodec(name).value(), shape, made);
  };
  EXPECT_LT(error("skvq2"), 0.5 * error("int2"));
  EXPECT_LT(error("skvq4"), 0.8 * error("int4"));
  EXPECT_EQ(FindCodec("skvq2").value()->Calibrate(made.sample).hash,
            FindCodec("skvq2").value()->Calibrate(made.sample).hash);
}

TEST(SkvqCodec, BitsPerValueCountEverythingStored) {
  // A unit of scales and one of offsets for each group of a run, a scale and an offset of 8 bits
  // for each token and group.
  const double run = 32.0 / 128.0;
  EXPECT_DOUBLE_EQ(FindCodec("skvq4").value()->BitsPerValue({3, 64, 128}),
                   4.0 + (16.0 + run) / 32.0);
  EXPECT_DOUBLE_EQ(FindCodec("skvq2").value()->BitsPerValue({3, 64, 128}),
                   2.0 + (16.0 + run) / 32.0);
  EXPECT_DOUBLE_EQ(FindCodec("skvq2").value()->BitsPerValue({8, 128, 128}),
                   2.0 + (16.0 + run) / 64.0);
}

// Tables that no computer rounds: the order reversed, whole centres.
CodecTables PlainTables(size_t num_kv_heads, size_t head_dim) {
  CodecTables tables;
  for (size_t side = 0; side < 2 * num_kv_heads; ++side) {
    for (size_t i = 0; i < head_dim; ++i) {
      tables.values.push_back(static_cast<float>(head_dim - 1 - i));
    }
    for (size_t i = 0; i < head_dim; ++i) {
      tables.values.push_back(static_cast<float>(i % 3) - 1.0F);
    }
    tables.values.insert(tables.values.end(), SkvqGroups(head_dim), 0.75F);
  }
  return tables;
}

struct PlainRun {
  RunShape shape{2, 64, 70};
  Tokens tokens;
  CodecTables tables = PlainTables(2, 64);
  RunContext context{.tables = &tables};

  PlainRun() {
    for (uint32_t i = 0; i < 2 * 64 * 70; ++i) {
      tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
      tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
    }
  }
  PlainRun(const PlainRun&) = delete;

  std::vector<std::byte> Encode(const Codec& codec) const {
    std::vector<std::byte> bytes(codec.EncodedBytes(shape));
    codec.Encode(
        shape, 0, 70, tokens.k.data(), tokens.v.data(), TokenValues(shape), context, bytes);
    return bytes;
  }
};

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(SkvqCodec, BytesAreThoseOfTheSecondVersion) {
  const PlainRun run;
  const std::pair<const char*, uint64_t> golden[] = {{"skvq4", 14944670808208291335U},
                                                     {"skvq2", 13534795700347411550U}};
  for (const auto& [name, hash] : golden) {
    const Codec& codec = *FindCodec(name).value();
    ASSERT_EQ(codec.version(), 2);
    EXPECT_EQ(Hash64(run.Encode(codec)), hash) << name;
  }
}

TEST(SkvqCodec, DecodesAsItsBlockIsDescribed) {
  const PlainRun run;
  const Codec& codec = *FindCodec("skvq4").value();
  const std::vector<std::byte> bytes = run.Encode(codec);
  Tokens decoded = run.tokens;
  codec.Decode(run.shape, 0, 70, bytes, run.context, decoded.k.data(), decoded.v.data());
  const SkvqLayout at = SkvqLayoutOf(4, 64, 70);
  ASSERT_EQ(bytes.size(), 4 * at.bytes);
  const auto unit = [&](size_t block, size_t index) {
    uint16_t half;
    std::memcpy(&half, bytes.data() + block + index * sizeof(half), sizeof(half));
    return F16ToFloat(half);
  };
  const size_t block = 3 * at.bytes;  // values of the second head
  for (size_t t = 0; t < 70; ++t) {
    for (size_t i = 0; i < 64; ++i) {
      const size_t group = (63 - i) / 32;
      const size_t own = t * at.groups + group;
      const float scale = Fp8ToFloat(static_cast<uint8_t>(bytes[block + at.scales + own]));
      const float offset = Fp8ToFloat(static_cast<uint8_t>(bytes[block + at.offsets + own]));
      const uint32_t code =
          UnpackCode(bytes.data() + block + at.codes + t * at.row_bytes, 4, 64, i);
      EXPECT_EQ(decoded.v[t * 128 + 64 + i],
                SkvqDecode(code,
                           scale * unit(block, group),
                           offset * unit(block, at.groups + group),
                           static_cast<float>(i % 3) - 1.0F));
    }
  }
}

TEST(SkvqCodec, DamagedBytesDecodeToSomething) {
  PlainRun run;
  for (const char* name : {"skvq4", "skvq2"}) {
    const Codec& codec = *FindCodec(name).value();
    std::vector<std::byte> bytes(codec.EncodedBytes(run.shape), std::byte{0xff});
    Tokens decoded = run.tokens;
    codec.Decode(run.shape, 0, 70, bytes, run.context, decoded.k.data(), decoded.v.data());
    EXPECT_NE(decoded.k, run.tokens.k);
  }
}

}  // namespace
}  // namespace varve
