// Codecs rvq8, rvq4, rvq8-2k: that bytes and values are what rvq_block.h says, and what
// calibration finds.
#include <algorithm>
#include <cmath>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/f16_block.h"
#include "kernels/codec/rvq_block.h"
#include "kernels/codec/rvq_calibration.h"
#include "kernels/codec/rvq_search.h"
#include "kernels/cpu/simd_targets.h"
#include "proto/base/hash.h"
#include "tests/kernels/codec_cases.h"

namespace varve {
namespace {

struct Named {
  const char* name;
  RvqFormat format;
};
constexpr Named kCodecs[] = {{"rvq8", {8, 8}}, {"rvq4", {4, 8}}, {"rvq8-2k", {8, 11}}};

class RvqCodec : public testing::Test {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

// Codebooks without calibration: each stage half as large as the one before.
CodecTables MadeUpTables(const RvqFormat& format) {
  CodecTables tables;
  tables.values.resize(RvqTableFloats(format));
  const size_t codebook = RvqEntries(format) * kRvqGroup;
  for (uint32_t i = 0; i < tables.values.size(); ++i) {
    const auto unit = static_cast<float>((i * 2654435761U) >> 16) / 16384.0F - 2.0F;
    tables.values[i] = std::ldexp(unit, -static_cast<int>(i / codebook % format.stages));
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

std::vector<std::byte> Encode(const Codec& codec,
                              const RunShape& shape,
                              const Tokens& tokens,
                              const RunContext& context) {
  std::vector<std::byte> bytes(codec.EncodedBytes(shape));
  codec.Encode(shape,
               0,
               shape.token_capacity,
               tokens.k.data(),
               tokens.v.data(),
               TokenValues(shape),
               context,
               bytes);
  return bytes;
}

Tokens Decode(const Codec& codec,
              const RunShape& shape,
              std::span<const std::byte> bytes,
              const RunContext& context) {
  Tokens tokens;
  tokens.k.resize(TokenValues(shape) * shape.token_capacity);
  tokens.v.resize(tokens.k.size());
  codec.Decode(shape, 0, shape.token_capacity, bytes, context, tokens.k.data(), tokens.v.data());
  return tokens;
}

double MeanSquare(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  }
  return sum / static_cast<double>(a.size());
}

// rvq_block.h taken literally, for one row: its group bytes, and what they decode to.
void CodeRow(const RvqFormat& format,
             const float* codebooks,
             bool is_key,
             std::span<const float> row,
             std::byte* codes,
             uint16_t* stored_scale,
             float* decoded) {
  double square = 0.0;
  for (const float x : row) {
    square += static_cast<double>(x) * x;
  }
  *stored_scale =
      FloatToF16(static_cast<float>(std::sqrt(square / static_cast<double>(row.size()))));
  const float scale = F16ToFloat(*stored_scale);
  const size_t groups = RvqGroups(row.size());
  for (size_t group = 0; group < groups; ++group) {
    float rest[kRvqGroup] = {};
    float sum[kRvqGroup] = {};
    for (size_t i = 0; i < kRvqGroup; ++i) {
      const size_t channel = is_key ? i * groups + group : group * 32 + i;
      rest[i] = channel < row.size() ? row[channel] / scale : 0.0F;
    }
    for (size_t stage = 0; stage < format.stages; ++stage) {
      const float* codebook = codebooks + stage * RvqEntries(format) * kRvqGroup;
      size_t best = 0;
      float best_score = INFINITY;
      for (size_t entry = 0; entry < RvqEntries(format); ++entry) {
        float score = 0.0F;
        for (size_t i = 0; i < kRvqGroup; ++i) {
          score += codebook[entry * kRvqGroup + i] * codebook[entry * kRvqGroup + i];
        }
        for (size_t i = 0; i < kRvqGroup; ++i) {
          score += -2.0F * rest[i] * codebook[entry * kRvqGroup + i];
        }
        if (score < best_score) {
          best_score = score;
          best = entry;
        }
      }
      for (size_t i = 0; i < kRvqGroup; ++i) {
        const float c = codebook[best * kRvqGroup + i];
        rest[i] -= c;
        sum[i] = stage == 0 ? c : sum[i] + c;
      }
      SetRvqIndex(codes + group * RvqGroupBytes(format), format, stage, best);
    }
    for (size_t i = 0; i < kRvqGroup; ++i) {
      const size_t channel = is_key ? i * groups + group : group * 32 + i;
      if (channel < row.size()) {
        decoded[channel] = sum[i] * scale;
      }
    }
  }
}

TEST_F(RvqCodec, WritesAndReadsWhatTheBlockSaysOnEveryTarget) {
  for (const auto& [name, format] : kCodecs) {
    const Codec& codec = *FindCodec(name).value();
    const CodecTables tables = MadeUpTables(format);
    for (const int32_t head_dim : {1, 20, 32, 64, 80, 96, 128, 150, 256}) {
      const RunShape shape{1, head_dim, 3};
      const Tokens tokens = MakeTokens(shape, 0, 300 + head_dim);
      std::vector<std::byte> expected(codec.EncodedBytes(shape));
      Tokens decoded = tokens;
      const size_t row_bytes = RvqRowBytes(format, head_dim);
      for (const bool is_key : {true, false}) {
        std::byte* block = expected.data() + (is_key ? 0 : expected.size() / 2);
        for (int32_t t = 0; t < shape.token_capacity; ++t) {
          const std::vector<float>& x = is_key ? tokens.k : tokens.v;
          uint16_t scale;
          CodeRow(format,
                  tables.values.data() + (is_key ? 0 : RvqSideFloats(format)),
                  is_key,
                  {x.data() + t * head_dim, static_cast<size_t>(head_dim)},
                  block + t * row_bytes,
                  &scale,
                  (is_key ? decoded.k : decoded.v).data() + t * head_dim);
          std::memcpy(block + 3 * row_bytes + t * sizeof(scale), &scale, sizeof(scale));
        }
      }
      for (const SimdTarget& target : SimdTargets()) {
        ForceSimdTarget(target);
        const std::vector<std::byte> bytes = Encode(codec, shape, tokens, {.tables = &tables});
        ASSERT_EQ(bytes, expected) << name << " " << head_dim << " " << target.name;
        const Tokens again = Decode(codec, shape, bytes, {.tables = &tables});
        ASSERT_EQ(again.k, decoded.k) << name << " " << head_dim << " " << target.name;
        ASSERT_EQ(again.v, decoded.v) << name << " " << head_dim << " " << target.name;
      }
    }
  }
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST_F(RvqCodec, BytesAreThoseOfTheFirstVersion) {
  const RunShape shape{2, 80, 70};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 80 * 70; ++i) {
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  const std::pair<const char*, uint64_t> golden[] = {{"rvq8", 11649420768279319504U},
                                                     {"rvq4", 712513137238046751U},
                                                     {"rvq8-2k", 171926811622610848U}};
  for (size_t i = 0; i < std::size(golden); ++i) {
    const auto& [name, hash] = golden[i];
    const Codec& codec = *FindCodec(name).value();
    ASSERT_EQ(codec.version(), 1);
    const CodecTables tables = MadeUpTables(kCodecs[i].format);
    EXPECT_EQ(Hash64(Encode(codec, shape, tokens, {.tables = &tables})), hash) << name;
  }
}

TEST_F(RvqCodec, BitsCountEverythingAndPaddedGroupsCostWholeOnes) {
  const auto bits = [](const char* name, int32_t head_dim) {
    return FindCodec(name).value()->BitsPerValue({3, head_dim, 128});
  };
  EXPECT_DOUBLE_EQ(bits("rvq8", 64), 2.0 + 16.0 / 64.0);
  EXPECT_DOUBLE_EQ(bits("rvq4", 128), 1.0 + 16.0 / 128.0);
  EXPECT_DOUBLE_EQ(bits("rvq8-2k", 128), 2.75 + 16.0 / 128.0);
  EXPECT_DOUBLE_EQ(bits("rvq8", 40) * 40, bits("rvq8", 64) * 64);
}

TEST_F(RvqCodec, IndicesOfElevenBitsKeepToTheirPlaces) {
  const RvqFormat format{8, 11};
  Rng rng(5);
  for (int round = 0; round < 50; ++round) {
    std::byte group[12] = {};
    uint32_t indices[8];
    for (size_t s = 0; s < 8; ++s) {
      indices[s] = static_cast<uint32_t>(rng.Below(2048));
      SetRvqIndex(group, format, s, indices[s]);
    }
    for (size_t s = 0; s < 8; ++s) {
      EXPECT_EQ(RvqIndex(group, format, s), indices[s]);
    }
    EXPECT_EQ(group[11], std::byte{0});
  }
}

TEST_F(RvqCodec, GroupsOfKeysAreEveryOtherChannelAndThoseOfValuesNeighbours) {
  const Codec& codec = *FindCodec("rvq4").value();
  const RvqFormat format{4, 8};
  CodecTables tables;
  tables.values.resize(RvqTableFloats(format));
  for (const size_t side : {size_t{0}, RvqSideFloats(format)}) {
    std::fill_n(tables.values.begin() + static_cast<ptrdiff_t>(side + 9 * kRvqGroup), 32, 1.0F);
    std::fill_n(tables.values.begin() + static_cast<ptrdiff_t>(side + 77 * kRvqGroup), 32, -1.0F);
  }
  const RunShape shape{1, 64, 1};
  Tokens tokens;
  for (size_t i = 0; i < 64; ++i) {
    tokens.k.push_back(i % 2 == 0 ? 3.0F : -3.0F);
    tokens.v.push_back(i < 32 ? -5.0F : 5.0F);
  }
  const std::vector<std::byte> bytes = Encode(codec, shape, tokens, {.tables = &tables});
  EXPECT_EQ(bytes[0], std::byte{9});   // the key's channels 0, 2, 4, ...
  EXPECT_EQ(bytes[4], std::byte{77});  // 1, 3, 5, ...
  EXPECT_EQ(bytes[10], std::byte{77});
  EXPECT_EQ(bytes[14], std::byte{9});
  const Tokens decoded = Decode(codec, shape, bytes, {.tables = &tables});
  EXPECT_EQ(decoded.k, tokens.k);
  EXPECT_EQ(decoded.v, tokens.v);
}

TEST_F(RvqCodec, BytesThatNoEncoderWroteDecodeWithinTheCodebooks) {
  for (const auto& [name, format] : kCodecs) {
    const Codec& codec = *FindCodec(name).value();
    const CodecTables tables = MadeUpTables(format);
    const RunShape shape{1, 40, 2};
    std::vector<std::byte> bytes(codec.EncodedBytes(shape), std::byte{0xff});
    const size_t row_bytes = RvqRowBytes(format, 40);
    const uint16_t one = FloatToF16(1.0F);
    std::memcpy(bytes.data() + 2 * row_bytes, &one, sizeof(one));
    const Tokens decoded = Decode(codec, shape, bytes, {.tables = &tables});
    float last = 0.0F;
    for (size_t stage = 0; stage < format.stages; ++stage) {
      last += tables.values[((stage + 1) * RvqEntries(format) - 1) * kRvqGroup];
    }
    EXPECT_EQ(decoded.k[0], last) << name;
    EXPECT_TRUE(std::isnan(decoded.k[40])) << name;  // its scale is no number
  }
}

// Rows of a few directions, as keys and values of models are, and noise.
CalibrationSample MakeSample(int32_t num_kv_heads, int32_t head_dim, int64_t num_tokens) {
  constexpr size_t kDirections = 6;
  Rng rng(41);
  CalibrationSample sample{
      .num_kv_heads = num_kv_heads, .head_dim = head_dim, .num_tokens = num_tokens};
  std::vector<float> directions(kDirections * static_cast<size_t>(head_dim));
  for (float& x : directions) {
    x = rng.NextNormal();
  }
  for (std::vector<float>* side : {&sample.k, &sample.v}) {
    for (int64_t row = 0; row < num_tokens * num_kv_heads; ++row) {
      float factors[kDirections];
      for (float& factor : factors) {
        factor = rng.NextNormal();
      }
      for (size_t i = 0; i < static_cast<size_t>(head_dim); ++i) {
        float x = 0.3F * rng.NextNormal();
        for (size_t direction = 0; direction < kDirections; ++direction) {
          x += factors[direction] * directions[direction * static_cast<size_t>(head_dim) + i];
        }
        side->push_back(x);
      }
    }
  }
  return sample;
}

// Errors of keys and of values, relative to their size, of tokens that the tables were not made
// from.
std::pair<double, double> Errors(const Codec& codec, int32_t head_dim) {
  const RunShape shape{2, head_dim, 100};
  CalibrationSample sample = MakeSample(2, head_dim, 700);
  const auto held_out = static_cast<ptrdiff_t>(TokenValues(shape) * 100);
  const Tokens tokens{.k = {sample.k.end() - held_out, sample.k.end()},
                      .v = {sample.v.end() - held_out, sample.v.end()}};
  sample.k.resize(sample.k.size() - static_cast<size_t>(held_out));
  sample.v.resize(sample.v.size() - static_cast<size_t>(held_out));
  sample.num_tokens = 600;
  CodecTables tables;
  if (codec.needs_tables()) {
    tables = codec.Calibrate(sample);
  }
  const RunContext context{.tables = &tables};
  const Tokens decoded = Decode(codec, shape, Encode(codec, shape, tokens, context), context);
  const std::vector<float> zeros(tokens.k.size());
  return {MeanSquare(tokens.k, decoded.k) / MeanSquare(tokens.k, zeros),
          MeanSquare(tokens.v, decoded.v) / MeanSquare(tokens.v, zeros)};
}

TEST_F(RvqCodec, LosesLessThanARotationOfTwiceTheBitsWhereChannelsGoTogether) {
  const auto [rot_k, rot_v] = Errors(*FindCodec("rot2").value(), 64);    // 2.25 bits
  const auto [four_k, four_v] = Errors(*FindCodec("rvq4").value(), 64);  // 1.25 bits
  const auto [eight_k, eight_v] = Errors(*FindCodec("rvq8").value(), 64);
  EXPECT_LT(four_k, rot_k);
  EXPECT_LT(four_v, rot_v);
  EXPECT_LT(eight_k, 0.6 * four_k);
  EXPECT_LT(eight_v, 0.6 * four_v);
  // Groups that the head does not fill.
  const auto [padded_k, padded_v] = Errors(*FindCodec("rvq4").value(), 40);
  EXPECT_LT(padded_k, four_k);
  EXPECT_LT(padded_v, four_v);
}

TEST_F(RvqCodec, CalibrationIsTheSameOnEveryTarget) {
  const CalibrationSample sample = MakeSample(1, 48, 200);
  for (const char* name : {"rvq4", "rvq8"}) {
    const Codec& codec = *FindCodec(name).value();
    UseBestSimdTarget();
    const uint64_t hash = codec.Calibrate(sample).hash;
    for (const SimdTarget& target : SimdTargets()) {
      ForceSimdTarget(target);
      EXPECT_EQ(codec.Calibrate(sample).hash, hash) << name << " " << target.name;
    }
  }
}

TEST_F(RvqCodec, ClustersOfTheSampleBecomeCodewords) {
  // Four kinds of rows; all of them are in the first codebook, to the size of their noise.
  Rng rng(8);
  CalibrationSample sample{.num_kv_heads = 1, .head_dim = 32, .num_tokens = 600};
  std::vector<float> kinds(4 * kRvqGroup);
  for (float& x : kinds) {
    x = rng.Below(2) == 0 ? 1.0F : -1.0F;
  }
  for (size_t i = 0; i < 600 * kRvqGroup; ++i) {
    const float x = kinds[i / kRvqGroup % 4 * kRvqGroup + i % kRvqGroup];
    sample.k.push_back(7.0F * (x + 0.02F * rng.NextNormal()));
    sample.v.push_back(0.1F * (x + 0.02F * rng.NextNormal()));
  }
  const CodecTables tables = FindCodec("rvq4").value()->Calibrate(sample);
  uint16_t nearest[4];
  FindNearestCodewords(tables.values.data(), 256, kinds.data(), 4, nearest);
  for (size_t kind = 0; kind < 4; ++kind) {
    for (size_t i = 0; i < kRvqGroup; ++i) {
      EXPECT_NEAR(tables.values[nearest[kind] * kRvqGroup + i], kinds[kind * kRvqGroup + i], 0.06);
    }
  }
}

TEST_F(RvqCodec, ASampleOfFewVectorsOrOfZerosGivesTables) {
  const Codec& codec = *FindCodec("rvq8-2k").value();
  const RunShape shape{1, 32, 5};
  CalibrationSample sample = MakeSample(1, 32, 5);
  const Tokens tokens{.k = sample.k, .v = sample.v};
  const CodecTables few = codec.Calibrate(sample);
  EXPECT_EQ(few.values.size(), codec.TableFloats(1, 32));
  const RunContext context{.tables = &few};
  const Tokens decoded = Decode(codec, shape, Encode(codec, shape, tokens, context), context);
  EXPECT_LT(MeanSquare(decoded.k, tokens.k), 1e-3);
  std::fill(sample.k.begin(), sample.k.end(), 0.0F);
  const CodecTables zeros = codec.Calibrate(sample);
  EXPECT_TRUE(std::all_of(zeros.values.begin(),
                          zeros.values.begin() + static_cast<ptrdiff_t>(zeros.values.size() / 2),
                          [](float x) { return x == 0.0F; }));
}

}  // namespace
}  // namespace varve
