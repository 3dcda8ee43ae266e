// pca and pca10: what holds of their bytes.
#include <cmath>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cpu/simd_targets.h"
#include "proto/base/hash.h"
#include "tests/kernels/attend_cases.h"
#include "tests/kernels/pca_cases.h"

namespace varve {
namespace {

TEST(PcaCodec, CostsItsRateWithEverythingCounted) {
  for (const RunShape& shape : {RunShape{3, 64, 128}, RunShape{8, 128, 128}, RunShape{1, 64, 16}}) {
    EXPECT_DOUBLE_EQ(NamedCodec("pca").BitsPerValue(shape), 1.0);
    EXPECT_LE(NamedCodec("pca10").BitsPerValue(shape), 1.6);
    EXPECT_GT(NamedCodec("pca10").BitsPerValue(shape), 1.54);
  }
  EXPECT_EQ(NamedCodec("pca").TableFloats(2, 8), NamedCodec("pca10").TableFloats(2, 8));
}

TEST(PcaCodec, ScalesAreTheNearestOfTheirSteps) {
  EXPECT_EQ(PcaScale(0), 0.0F);
  EXPECT_EQ(PcaScale(1), 1.0F / 64.0F);
  EXPECT_EQ(PcaScale(73), 1.0F);
  for (size_t code = 1; code < kPcaScaleCodes; ++code) {
    EXPECT_GT(PcaScale(static_cast<uint8_t>(code)), PcaScale(static_cast<uint8_t>(code - 1)));
  }
  Rng rng(3);
  for (int i = 0; i < 2000; ++i) {
    const double scale = std::exp(2.0 * rng.NextNormal());
    const uint8_t code = PcaScaleCode(scale);
    const double error = std::fabs(PcaScale(code) - scale);
    for (size_t other = 0; other < kPcaScaleCodes; ++other) {
      ASSERT_LE(error, std::fabs(PcaScale(static_cast<uint8_t>(other)) - scale)) << scale;
    }
    ASSERT_LE(error, 0.03 * scale + 1.0 / 128.0);
  }
  EXPECT_EQ(PcaScaleCode(0.0), 0);
  EXPECT_EQ(PcaScaleCode(1e30), 255);
}

TEST(PcaCodec, ATokensBytesDoNotDependOnItsRun) {
  for (const char* name : kPcaNames) {
    const Codec& codec = NamedCodec(name);
    const RunShape whole{3, 64, 128};
    const Tokens tokens = MakeTokens(whole, 0, 13);
    const RunContext context = ContextFor(codec, whole);
    const std::vector<std::byte> all = EncodeWith(codec, whole, 128, tokens, context);
    for (int32_t count = 1; count <= 128; count += count < 10 ? 1 : 17) {
      const RunShape shape{3, 64, count};
      const std::vector<std::byte> some = EncodeWith(codec, shape, count, tokens, context);
      ASSERT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << name << " " << count;
    }
  }
}

TEST(PcaCodec, AttendsAsItDecodes) {
  ThreadTeam team(1);
  uint64_t seed = 300;
  for (const CodecId id : {CodecId::kPca, CodecId::kPcaFine}) {
    for (const auto& [heads, head_dim] : {std::pair(1, 64), {2, 80}, {2, 128}, {8, 16}, {5, 20}}) {
      for (const int num_queries : {1, 30}) {
        AttendCase attend_case;
        attend_case.num_kv_heads = heads;
        attend_case.head_dim = head_dim;
        attend_case.group_size = 2;
        attend_case.positions = LastPositions(203, num_queries);
        attend_case.views = PagesOf(id, 203);
        attend_case.views[0].pruned = num_queries == 30;
        attend_case.seed = ++seed;
        ASSERT_EQ(CheckAgainstReference(attend_case, team), "");
      }
    }
  }
}

TEST(PcaCodec, AnyBytesDecodeToNumbers) {
  Rng rng(19);
  for (const char* name : kPcaNames) {
    const Codec& codec = NamedCodec(name);
    for (const RunShape& shape : kShapes) {
      for (const int fill : {-1, 0, 0xff}) {
        std::vector<std::byte> bytes(codec.EncodedBytes(shape), static_cast<std::byte>(fill));
        for (std::byte& byte : bytes) {
          byte = fill < 0 ? static_cast<std::byte>(rng.Below(256)) : byte;
        }
        const Tokens decoded = DecodeAll(codec, shape, bytes);
        for (size_t i = 0; i < decoded.k.size(); ++i) {
          ASSERT_TRUE(std::isfinite(decoded.k[i]) && std::isfinite(decoded.v[i])) << name;
        }
      }
    }
  }
}

// Tables in whole numbers, the same on every machine.
CodecTables HandMadeTables(const Codec& codec, int32_t num_kv_heads, int32_t head_dim) {
  CodecTables tables;
  tables.values.resize(codec.TableFloats(num_kv_heads, head_dim));
  const PcaTables at = PcaTablesOf(tables.values.data(), num_kv_heads, head_dim);
  const auto fill = [&tables](const float* from, size_t count, auto value) {
    float* to = tables.values.data() + (from - tables.values.data());
    for (size_t i = 0; i < count; ++i) {
      to[i] = static_cast<float>(value(i));
    }
  };
  for (const PcaSide& side : {at.keys, at.values}) {
    for (size_t bits = 1; bits <= kPcaMaxBits; ++bits) {
      const auto last = static_cast<double>((1U << bits) - 1U);
      fill(side.levels + PcaLevelsAt(bits), size_t{1} << bits, [last](size_t i) {
        return 4.0 * static_cast<double>(i) / last - 2.0;
      });
    }
    // Three, two and one bits, then none.
    fill(side.group_bits, side.num_groups, [](size_t group) {
      return group < 4 ? (size_t{3} - group) % 4 : 0U;
    });
    const size_t components = side.num_groups * kPcaGroup;
    fill(side.mean, side.width(), [](size_t i) { return 0.25 * static_cast<double>(i % 7); });
    fill(side.deviations, components, [](size_t c) { return c < 16 ? 2.0 : 0.5; });
    fill(side.basis, components * side.width(), [](size_t i) {
      return static_cast<double>((i * 2654435761U >> 7) % 16) / 8.0 - 1.0;
    });
  }
  fill(at.keys.metric,
       static_cast<size_t>(num_kv_heads) * head_dim * head_dim,
       [head_dim](size_t i) { return i % (head_dim + 1) == 0 ? 0.5 : 0.0; });
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

// Pages outlive the program: these bytes must stay readable, so a change of them needs a new
// version.
TEST(PcaCodec, BytesAreThoseOfTheFirstVersion) {
  const RunShape shape{2, 32, 9};
  Tokens tokens;
  for (uint32_t i = 0; i < 2 * 32 * 9; ++i) {
    tokens.k.push_back(static_cast<float>((i * 2654435761U) >> 16) / 8192.0F - 4.0F);
    tokens.v.push_back(static_cast<float>((i * 2246822519U) >> 16) / 8192.0F - 3.0F);
  }
  const std::pair<const char*, uint64_t> golden[] = {{"pca", 8363269874921842782U},
                                                     {"pca10", 10720510939049593698U}};
  for (const auto& [name, hash] : golden) {
    const Codec& codec = NamedCodec(name);
    ASSERT_EQ(codec.version(), 1);
    const CodecTables tables = HandMadeTables(codec, 2, 32);
    for (const SimdTarget& target : SimdTargets()) {
      ForceSimdTarget(target);
      EXPECT_EQ(Hash64(EncodeWith(codec, shape, 9, tokens, {.tables = &tables})), hash)
          << name << " " << target.name;
    }
    UseBestSimdTarget();
  }
}

TEST(PcaCodecDeathTest, RefusesTablesThatDoNotFit) {
  const RunShape shape{2, 16, 4};
  const Tokens tokens = MakeTokens(shape, 0, 1);
  for (const char* name : kPcaNames) {
    const Codec& codec = NamedCodec(name);
    EXPECT_DEATH(EncodeWith(codec, shape, 4, tokens, {}), "tables");
    CodecTables tables = *TablesFor(codec, 1, 16);
    EXPECT_DEATH(EncodeWith(codec, shape, 4, tokens, {.tables = &tables}), "PcaTableFloats");
    tables = *TablesFor(codec, 2, 16);
    const PcaTables at = PcaTablesOf(tables.values.data(), 2, 16);
    std::fill_n(tables.values.data() + (at.values.group_bits - tables.values.data()),
                at.values.num_groups,
                6.0F);
    EXPECT_DEATH(EncodeWith(codec, shape, 4, tokens, {.tables = &tables}), "PcaCodeBytes");
    // Reading stops at the end of a row.
    const std::vector<std::byte> bytes(codec.EncodedBytes(shape), std::byte{0x5a});
    EXPECT_TRUE(std::isfinite(DecodeWith(codec, shape, bytes, {.tables = &tables}).v.back()));
  }
}

}  // namespace
}  // namespace varve
