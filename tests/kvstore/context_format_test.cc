#include "kvstore/context_format.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

ContextManifest Manifest() {
  ContextManifest manifest = MakeManifest(77, KvPolicy{});
  manifest.version = 3;
  manifest.num_tokens = 10'000'000;
  manifest.text_bytes = 40'000'000;
  manifest.text_hash = 42;
  return manifest;
}

// One with everything that a fork has.
ContextManifest Fork() {
  ContextManifest manifest = Manifest();
  manifest.lineage = {{ContextId{5}, 9, 1000, 128'100, 500'000},
                      {ContextId{6}, 2, 1000, 128'200, 500'400}};
  manifest.tail = {ContextId{6}, 2};
  manifest.parent = "context-6";
  manifest.attributes = {.pinned = true, .ttl_s = 604'800, .last_used_unix_s = 1'767'225'600};
  return manifest;
}

TEST(ContextFormatTest, RoundTripsAManifest) {
  const ContextManifest manifest = Manifest();
  const auto decoded =
      DecodeManifest(ManifestRowKey(manifest.id, manifest.version), EncodeManifest(manifest));
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->id, manifest.id);
  EXPECT_EQ(decoded->name, manifest.name);
  EXPECT_EQ(decoded->version, manifest.version);
  EXPECT_EQ(decoded->num_tokens, manifest.num_tokens);
  EXPECT_EQ(decoded->text_bytes, manifest.text_bytes);
  EXPECT_EQ(decoded->text_hash, manifest.text_hash);
  EXPECT_EQ(decoded->model_hash, manifest.model_hash);
  EXPECT_EQ(decoded->tokenizer_hash, manifest.tokenizer_hash);
  EXPECT_EQ(decoded->created_unix_s, manifest.created_unix_s);
  EXPECT_EQ(decoded->updated_unix_s, manifest.updated_unix_s);
  EXPECT_EQ(decoded->policy, manifest.policy);
}

TEST(ContextFormatTest, RoundTripsATokenPolicy) {
  ContextManifest manifest = Manifest();
  manifest.policy.tokens = "streaming";
  manifest.policy.keep = 1.0 / 3;
  const auto decoded =
      DecodeManifest(ManifestRowKey(manifest.id, manifest.version), EncodeManifest(manifest));
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->policy, manifest.policy);
}

TEST(ContextFormatTest, ReadsManifestsOfVersion1AsKeepingAllTokens) {
  const auto golden = ReadFile(VARVE_SOURCE_DIR "/tests/kvstore/golden/manifest_v1.bin");
  ASSERT_OK(golden);
  const auto decoded = DecodeManifest(ManifestRowKey(ContextId{77}, 3), *golden);
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->num_tokens, Manifest().num_tokens);
  EXPECT_EQ(decoded->policy, Manifest().policy);
  EXPECT_EQ(decoded->policy.tokens, "all");
}

TEST(ContextFormatTest, RoundTripsALadder) {
  ContextManifest manifest = Manifest();
  manifest.policy.warm_codec = "rot2";
  manifest.policy.cold_codec = "pca";
  const auto decoded =
      DecodeManifest(ManifestRowKey(manifest.id, manifest.version), EncodeManifest(manifest));
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->policy, manifest.policy);
}

TEST(ContextFormatTest, ReadsManifestsOfVersion2AsThoseOfNoLadderAndNoFork) {
  const auto golden = ReadFile(VARVE_SOURCE_DIR "/tests/kvstore/golden/manifest_v2.bin");
  ASSERT_OK(golden);
  const auto decoded = DecodeManifest(ManifestRowKey(ContextId{77}, 3), *golden);
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->policy, Manifest().policy);
  EXPECT_EQ(decoded->policy.warm_codec, "");
  EXPECT_TRUE(decoded->lineage.empty());
  EXPECT_EQ(decoded->committed_tail(), (TailRef{ContextId{77}, 3}));
  EXPECT_EQ(decoded->attributes.last_used_unix_s, decoded->updated_unix_s);
}

TEST(ContextFormatTest, RoundTripsAFork) {
  const ContextManifest manifest = Fork();
  const auto decoded =
      DecodeManifest(ManifestRowKey(manifest.id, manifest.version), EncodeManifest(manifest));
  ASSERT_OK(decoded);
  EXPECT_EQ(decoded->lineage, manifest.lineage);
  EXPECT_EQ(decoded->tail, manifest.tail);
  EXPECT_EQ(decoded->parent, manifest.parent);
  EXPECT_EQ(decoded->attributes, manifest.attributes);
  EXPECT_EQ(decoded->grid_owner(), ContextId{5});
  EXPECT_EQ(decoded->shared_pages(), 1000);
}

TEST(ContextFormatTest, RefusesALineageThatDoesNotFit) {
  const auto refused = [](const auto& change) {
    ContextManifest manifest = Fork();
    change(manifest);
    return DecodeManifest(ManifestRowKey(manifest.id, manifest.version), EncodeManifest(manifest));
  };
  EXPECT_ERROR(refused([](auto& m) { m.lineage[1].end_page = 999; }), ErrorCode::kPageCorrupt);
  EXPECT_ERROR(refused([](auto& m) { m.lineage[1].num_tokens = 5; }), ErrorCode::kPageCorrupt);
  EXPECT_ERROR(refused([](auto& m) { m.lineage[0].owner = {}; }), ErrorCode::kPageCorrupt);
  EXPECT_ERROR(refused([](auto& m) { m.text_bytes = 400'000; }), ErrorCode::kPageCorrupt);
  EXPECT_ERROR(refused([](auto& m) { m.lineage[1].end_page = 1 << 30; }), ErrorCode::kPageCorrupt);
}

TEST(ContextFormatTest, WritesTheGoldenBytesOfItsVersions) {
  const std::string text_row = TextRowKey(ContextId{77}, 3, TextKind::kText);
  for (const auto& [name, record] :
       {std::pair("manifest_v4.bin", EncodeManifest(Fork())),
        std::pair("text_v1.bin", EncodeText(text_row, "What is written, stays."))}) {
    const std::string path = std::string(VARVE_SOURCE_DIR "/tests/kvstore/golden/") + name;
    if (std::getenv("VARVE_WRITE_GOLDEN") != nullptr) {
      ASSERT_OK(WriteFileAtomically(path, record));
    }
    const auto golden = ReadFile(path);
    ASSERT_OK(golden);
    EXPECT_TRUE(*golden == record) << name << " is not what this build writes";
  }
}

TEST(ContextFormatTest, RefusesEveryFlippedBitAndEveryTruncation) {
  const std::string row = ManifestRowKey(ContextId{77}, 3);
  const std::string good = EncodeManifest(Manifest());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    // A version that this build reads is told by the checksum.
    const bool in_version =
        (bit / 8 == 8 || bit / 8 == 9) &&
        (static_cast<uint8_t>(bad[8]) > kManifestFormatVersion || bad[8] == 0 || bad[9] != 0);
    EXPECT_ERROR(DecodeManifest(row, bad),
                 in_version ? ErrorCode::kVersionSkew : ErrorCode::kPageCorrupt);
  }
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_ERROR(DecodeManifest(row, good.substr(0, size)), ErrorCode::kPageCorrupt);
  }
}

TEST(ContextFormatTest, RecordsAreBoundToTheirKeys) {
  const std::string manifest = EncodeManifest(Manifest());
  EXPECT_ERROR(DecodeManifest(ManifestRowKey(ContextId{78}, 3), manifest), ErrorCode::kPageCorrupt);
  EXPECT_ERROR(DecodeManifest(ManifestRowKey(ContextId{77}, 4), manifest), ErrorCode::kPageCorrupt);
  const std::string row = TextRowKey(ContextId{1}, 1, TextKind::kText);
  const std::string text = EncodeText(row, "words");
  EXPECT_EQ(DecodeText(row, text).value(), "words");
  EXPECT_ERROR(DecodeText(TextRowKey(ContextId{1}, 1, TextKind::kTokens), text),
               ErrorCode::kPageCorrupt);
}

}  // namespace
}  // namespace varve
