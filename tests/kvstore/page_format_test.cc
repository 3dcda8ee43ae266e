#include "kvstore/page_format.h"

#include <cstdlib>
#include <cstring>

#include <gtest/gtest.h>

#include "kvstore/sealer.h"
#include "proto/base/file.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr size_t kHeaderBytes = 96;
constexpr size_t kRowBytes = 48;

PageIdentity SmallIdentity() {
  PageIdentity identity;
  identity.key = PageKey{PageKey::Space::kContext, 0x0102030405060708, 3, 3, 0};
  identity.model_hash = 0x1122334455667788;
  identity.num_kv_heads = 1;
  identity.head_dim = 8;
  identity.page_tokens = 8;
  identity.num_tokens = 8;
  return identity;
}

ResolvedPolicy SmallPolicy(const std::string& tokens = "all") {
  KvPolicy policy;
  policy.tokens = tokens;
  policy.page_tokens = 8;
  policy.sink_tokens = 2;
  return ResolvedPolicy::Resolve(policy, MakeGeometry(1, 8, {0, 0, 0, 0})).value();
}

// A sealed page of 8 tokens, 2 of them sinks, 1 head of 8.
std::vector<std::byte> SmallRecord(const PageIdentity& identity,
                                   const std::string& tokens = "all") {
  const ResolvedPolicy policy = SmallPolicy(tokens);
  Sealer sealer(MakeGeometry(1, 8, {0, 0, 0, 0}));
  sealer.Reserve(policy);
  UnsealedRun run;
  run.token_capacity = 8;
  run.bytes.resize(policy.exact->EncodedBytes(sealer.ShapeOf(8)));
  std::vector<float> k(64);
  std::vector<float> v(64);
  for (int32_t i = 0; i < 64; ++i) {
    k[static_cast<size_t>(i)] = KeyAt(1, 3, i / 8, i % 8);
    v[static_cast<size_t>(i)] = ValueAt(1, 3, i / 8, i % 8);
  }
  policy.exact->Encode(sealer.ShapeOf(8), 0, 8, k.data(), v.data(), 8, {}, run.bytes);
  return identity.kind == RecordKind::kSealed ? sealer.Seal(policy, identity, run)
                                              : sealer.WriteTail(policy, identity, run);
}

// Writes the checksum again after a deliberate change: what a newer or a foreign writer would have
// left.
void Rewrite(std::vector<std::byte>& record, const PageIdentity& identity) {
  ASSERT_TRUE(RewriteChecksum(identity.key, record));
}

template <typename T>
void Poke(std::vector<std::byte>& record, size_t at, T value) {
  std::memcpy(record.data() + at, &value, sizeof(value));
}

TEST(PageFormatTest, RoundTripsASealedPage) {
  const PageIdentity identity = SmallIdentity();
  const auto bytes = SmallRecord(identity);
  const auto record = ParsePageRecord(bytes, identity);
  ASSERT_OK(record);
  ASSERT_EQ(record->runs.size(), 2U);
  EXPECT_EQ(record->runs[0].codec->id(), CodecId::kBf16);
  EXPECT_EQ(record->runs[0].num_tokens, 2);
  EXPECT_EQ(record->runs[1].codec->id(), CodecId::kInt8);
  EXPECT_EQ(record->runs[1].first_token, 2);
  EXPECT_EQ(record->runs[1].num_tokens, 6);
  EXPECT_EQ(record->key_min_max.size(), 32U);
  for (const PageRun& run : record->runs) {
    EXPECT_EQ((run.encoded.data() - bytes.data()) % static_cast<ptrdiff_t>(kSectionAlignment), 0);
  }
}

TEST(PageFormatTest, RoundTripsKeyCentroids) {
  const PageIdentity identity = SmallIdentity();
  const auto bytes = SmallRecord(identity, "clusterkv");
  const auto record = ParsePageRecord(bytes, identity);
  ASSERT_OK(record);
  EXPECT_EQ(record->key_centroids.size(), 16U);  // one cluster, 1 head of 8 in bf16
  EXPECT_EQ(record->key_min_max.size(), 32U);
  const auto plain = SmallRecord(identity);
  EXPECT_TRUE(ParsePageRecord(plain, identity)->key_centroids.empty());
}

TEST(PageFormatTest, OneClusterStandsFor16Tokens) {
  EXPECT_EQ(NumKeyClusters(1), 1);
  EXPECT_EQ(NumKeyClusters(16), 1);
  EXPECT_EQ(NumKeyClusters(17), 2);
  EXPECT_EQ(NumKeyClusters(128), 8);
}

// Goal: the bytes of version 1 never change. VARVE_WRITE_GOLDEN=1 writes them anew, for a new
// version only.
TEST(PageFormatTest, WritesTheGoldenBytesOfVersion1) {
  PageIdentity tail = SmallIdentity();
  tail.kind = RecordKind::kTail;
  tail.commit_version = 9;
  tail.num_tokens = 5;
  const struct {
    const char* name;
    PageIdentity identity;
    const char* tokens;
  } cases[] = {{"page_v1.bin", SmallIdentity(), "all"},
               {"tail_v1.bin", tail, "all"},
               {"page_centroids_v1.bin", SmallIdentity(), "clusterkv"}};
  for (const auto& [name, identity, tokens] : cases) {
    const auto bytes = SmallRecord(identity, tokens);
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::string path = std::string(VARVE_SOURCE_DIR "/tests/kvstore/golden/") + name;
    if (std::getenv("VARVE_WRITE_GOLDEN") != nullptr) {
      ASSERT_OK(WriteFileAtomically(path, text));
    }
    const auto golden = ReadFile(path);
    ASSERT_OK(golden);
    EXPECT_TRUE(*golden == text) << name << " is not what this build writes";
    EXPECT_OK(ParsePageRecord(std::as_bytes(std::span(*golden)), identity));
  }
}

TEST(PageFormatTest, RefusesEveryFlippedBit) {
  const PageIdentity identity = SmallIdentity();
  const auto good = SmallRecord(identity, "clusterkv");
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    const auto parsed = ParsePageRecord(bad, identity);
    ASSERT_FALSE(parsed.has_value()) << "bit " << bit;
    const bool in_version = bit / 8 == 8 || bit / 8 == 9;
    EXPECT_EQ(parsed.error().code, in_version ? ErrorCode::kVersionSkew : ErrorCode::kPageCorrupt)
        << "bit " << bit;
  }
}

TEST(PageFormatTest, RefusesEveryTruncation) {
  const PageIdentity identity = SmallIdentity();
  const auto good = SmallRecord(identity);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_ERROR(ParsePageRecord(std::span(good).first(size), identity), ErrorCode::kPageCorrupt);
  }
}

TEST(PageFormatTest, AMisdirectedReadIsRefusedAndNamed) {
  const auto bytes = SmallRecord(SmallIdentity());
  PageIdentity other = SmallIdentity();
  other.key.page = 5;
  other.first_position = 40;
  const auto parsed = ParsePageRecord(bytes, other);
  EXPECT_ERROR(parsed, ErrorCode::kPageCorrupt);
  EXPECT_NE(parsed.error().message.find("page 5 is corrupt"), std::string::npos)
      << parsed.error().message;
  EXPECT_NE(parsed.error().message.find(
                "the bytes are those of context 72623859790382856 layer 3 page 0"),
            std::string::npos)
      << parsed.error().message;
  PageIdentity scratch = SmallIdentity();
  scratch.key.space = PageKey::Space::kScratch;
  EXPECT_ERROR(ParsePageRecord(bytes, scratch), ErrorCode::kPageCorrupt);
}

TEST(PageFormatTest, RefusesAnotherModelVersionOrShape) {
  const auto bytes = SmallRecord(SmallIdentity());
  PageIdentity model = SmallIdentity();
  model.model_hash = 1;
  EXPECT_ERROR(ParsePageRecord(bytes, model), ErrorCode::kModelMismatch);
  PageIdentity kind = SmallIdentity();
  kind.kind = RecordKind::kTail;
  EXPECT_ERROR(ParsePageRecord(bytes, kind), ErrorCode::kPageCorrupt);
  PageIdentity version = SmallIdentity();
  version.commit_version = 3;
  EXPECT_ERROR(ParsePageRecord(bytes, version), ErrorCode::kPageCorrupt);
  PageIdentity tokens = SmallIdentity();
  tokens.num_tokens = 7;
  EXPECT_ERROR(ParsePageRecord(bytes, tokens), ErrorCode::kPageCorrupt);
  PageIdentity heads = SmallIdentity();
  heads.num_kv_heads = 2;
  EXPECT_ERROR(ParsePageRecord(bytes, heads), ErrorCode::kPageCorrupt);
}

TEST(PageFormatTest, RefusesWhatANewerBuildWouldWriteByName) {
  const PageIdentity identity = SmallIdentity();
  const struct {
    size_t at;
    uint16_t value;
    ErrorCode code;
    const char* name;
  } cases[] = {
      {8, 2, ErrorCode::kVersionSkew, "page format version 2"},
      {kHeaderBytes + kRowBytes, 99, ErrorCode::kVersionSkew, "section of kind 99"},
      {kHeaderBytes + kRowBytes + 4, 4711, ErrorCode::kCodecMismatch, "4711"},
      {kHeaderBytes + kRowBytes + 6, 77, ErrorCode::kCodecMismatch, "version 77 of codec int8"},
      {kHeaderBytes + kRowBytes + 8, 0xabcd, ErrorCode::kCodecMismatch, "000000000000abcd"},
      {kHeaderBytes + 2 * kRowBytes + 6, 2, ErrorCode::kVersionSkew, "key bounds of layout 2"},
      {kHeaderBytes + 3 * kRowBytes + 6, 3, ErrorCode::kVersionSkew, "key centroids of layout 3"},
  };
  for (const auto& one : cases) {
    auto record = SmallRecord(identity, "clusterkv");
    Poke(record, one.at, one.value);
    Rewrite(record, identity);
    const auto parsed = ParsePageRecord(record, identity);
    EXPECT_ERROR(parsed, one.code);
    EXPECT_NE(parsed.error().message.find(one.name), std::string::npos) << parsed.error().message;
  }
}

TEST(PageFormatTest, RefusesSectionsThatDoNotFit) {
  const PageIdentity identity = SmallIdentity();
  const size_t run = kHeaderBytes + kRowBytes;
  const std::pair<size_t, uint64_t> pokes[] = {
      {10, 0},                         // no sections (and the kind and space bytes beside them)
      {run + 32, 8},                   // offset inside the header
      {run + 32, 1 << 20},             // offset behind the end
      {run + 40, 1 << 20},             // longer than the record
      {run + 40, 16},                  // not the size of its tokens
      {run + 16, 0x700000000},         // first token 0, num_tokens 7: more than its capacity
      {run + 2 * kRowBytes + 40, 0},   // centroids of no cluster
      {run + 2 * kRowBytes + 40, 32},  // of two
  };
  for (const auto& [at, value] : pokes) {
    auto record = SmallRecord(identity, "clusterkv");
    if (at == 10) {
      Poke(record, at, static_cast<uint16_t>(value));
    } else {
      Poke(record, at, value);
    }
    Rewrite(record, identity);
    EXPECT_ERROR(ParsePageRecord(record, identity), ErrorCode::kPageCorrupt);
  }
}

TEST(PageFormatTest, ReadsPrunedRuns) {
  const PageIdentity identity = SmallIdentity();
  const ResolvedPolicy policy = SmallPolicy();
  std::vector<Section> sections = {RunSection(*policy.exact, identity, 3, 0, 4)};
  for (const auto kind : {SectionKind::kTokenIndices, SectionKind::kTokenWeights}) {
    Section section;
    section.kind = kind;
    section.layer = 3;
    section.run = 0;
    section.bytes = 4 * sizeof(int32_t);
    sections.push_back(section);
  }
  PageRecordWriter writer(identity, sections);
  const int32_t indices[] = {0, 3, 5, 7};
  const float weights[] = {1, 2, 1, 2};
  std::memcpy(writer.section(1).data(), indices, sizeof(indices));
  std::memcpy(writer.section(2).data(), weights, sizeof(weights));
  auto record = std::move(writer).Finish();
  const auto parsed = ParsePageRecord(record, identity);
  ASSERT_OK(parsed);
  EXPECT_EQ(parsed->runs.at(0).token_indices[3], 7);
  EXPECT_EQ(parsed->runs.at(0).token_weights[1], 2.0F);

  auto stray = record;
  Poke(stray, kHeaderBytes + kRowBytes + 28, uint32_t{9});
  Rewrite(stray, identity);
  EXPECT_ERROR(ParsePageRecord(stray, identity), ErrorCode::kPageCorrupt);
  const auto first_index = static_cast<size_t>(
      reinterpret_cast<const std::byte*>(parsed->runs[0].token_indices) - record.data());
  // Behind the page; where another token of the head is already.
  for (const int32_t index : {8, 5}) {
    auto moved = record;
    Poke(moved, first_index, index);
    Rewrite(moved, identity);
    EXPECT_ERROR(ParsePageRecord(moved, identity), ErrorCode::kPageCorrupt);
  }
}

}  // namespace
}  // namespace varve
