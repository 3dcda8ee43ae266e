#include "kvstore/sealer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int32_t kTokens = 32;
constexpr int32_t kChannels = 16;

class SealerTest : public ::testing::Test {
 protected:
  SealerTest() : sealer_(MakeGeometry(2, 8, {0, 64})) {
    KvPolicy policy;
    policy.page_tokens = kTokens;
    policy_ = ResolvedPolicy::Resolve(policy, MakeGeometry(2, 8, {0, 64})).value();
    sealer_.Reserve(policy_);
    Rng rng(3);
    for (size_t i = 0; i < k_.size(); ++i) {
      k_[i] = 3 * rng.NextNormal();
      v_[i] = rng.NextNormal();
    }
    run_.token_capacity = kTokens;
    run_.bytes.resize(policy_.exact->EncodedBytes(sealer_.ShapeOf(kTokens)));
    policy_.exact->Encode(
        sealer_.ShapeOf(kTokens), 0, kTokens, k_.data(), v_.data(), kChannels, {}, run_.bytes);
  }
  PageIdentity Identity(uint16_t layer,
                        RecordKind kind = RecordKind::kSealed,
                        int32_t num_tokens = kTokens) const {
    PageIdentity identity;
    identity.key = PageKey{PageKey::Space::kContext, 1, layer, layer, 0};
    identity.kind = kind;
    identity.num_kv_heads = 2;
    identity.head_dim = 8;
    identity.page_tokens = kTokens;
    identity.num_tokens = num_tokens;
    return identity;
  }

  Sealer sealer_;
  ResolvedPolicy policy_;
  UnsealedRun run_;
  std::vector<float> k_ = std::vector<float>(kTokens * kChannels);
  std::vector<float> v_ = std::vector<float>(kTokens * kChannels);
};

TEST_F(SealerTest, SizesAreKnownWithoutTheBytes) {
  for (const uint16_t layer : {0, 1}) {
    EXPECT_EQ(sealer_.Seal(policy_, Identity(layer), run_).size(),
              sealer_.SealedBytes(policy_, Identity(layer)));
  }
  for (const int32_t tokens : {1, 17, kTokens}) {
    const PageIdentity identity = Identity(0, RecordKind::kTail, tokens);
    EXPECT_EQ(sealer_.WriteTail(policy_, identity, run_).size(),
              sealer_.TailBytes(policy_, identity));
  }
}

TEST_F(SealerTest, KeyBoundsHoldForEveryDecodedKeyAndAreTight) {
  const auto bytes = sealer_.Seal(policy_, Identity(0), run_);
  const auto record = ParsePageRecord(bytes, Identity(0));
  ASSERT_OK(record);
  std::vector<float> low(kChannels, INFINITY);
  std::vector<float> high(kChannels, -INFINITY);
  for (const PageRun& run : record->runs) {
    std::vector<float> k(static_cast<size_t>(run.num_tokens) * kChannels);
    std::vector<float> v(k.size());
    run.codec->Decode(sealer_.ShapeOf(run.token_capacity),
                      0,
                      run.num_tokens,
                      run.encoded,
                      {},
                      k.data(),
                      v.data());
    for (size_t i = 0; i < k.size(); ++i) {
      low[i % kChannels] = std::min(low[i % kChannels], k[i]);
      high[i % kChannels] = std::max(high[i % kChannels], k[i]);
    }
  }
  for (size_t c = 0; c < kChannels; ++c) {
    uint16_t bits[2];
    std::memcpy(&bits[0], record->key_min_max.data() + 2 * c, 2);
    std::memcpy(&bits[1], record->key_min_max.data() + 2 * (kChannels + c), 2);
    const auto lower = std::bit_cast<float>(static_cast<uint32_t>(bits[0]) << 16);
    const auto upper = std::bit_cast<float>(static_cast<uint32_t>(bits[1]) << 16);
    EXPECT_LE(lower, low[c]);
    EXPECT_GE(upper, high[c]);
    // One unit in the last of bf16's 8 bits.
    EXPECT_NEAR(lower, low[c], std::fabs(low[c]) / 128);
    EXPECT_NEAR(upper, high[c], std::fabs(high[c]) / 128);
  }
}

TEST_F(SealerTest, WindowLayersHaveNoBounds) {
  const auto bytes = sealer_.Seal(policy_, Identity(1), run_);
  EXPECT_TRUE(ParsePageRecord(bytes, Identity(1))->key_min_max.empty());
}

TEST_F(SealerTest, CentroidsAreThoseOfTheDecodedKeys) {
  KvPolicy policy = policy_.policy;
  policy.tokens = "clusterkv";
  policy_ = ResolvedPolicy::Resolve(policy, MakeGeometry(2, 8, {0, 64})).value();
  sealer_.Reserve(policy_);
  const auto bytes = sealer_.Seal(policy_, Identity(0), run_);
  EXPECT_EQ(bytes.size(), sealer_.SealedBytes(policy_, Identity(0)));
  const auto record = ParsePageRecord(bytes, Identity(0));
  ASSERT_OK(record);
  std::vector<float> k(kTokens * kChannels);
  std::vector<float> v(k.size());
  for (const PageRun& run : record->runs) {
    const size_t at = static_cast<size_t>(run.first_token) * kChannels;
    run.codec->Decode(sealer_.ShapeOf(run.token_capacity),
                      0,
                      run.num_tokens,
                      run.encoded,
                      {},
                      k.data() + at,
                      v.data() + at);
  }
  std::vector<uint16_t> want(static_cast<size_t>(NumKeyClusters(kTokens)) * kChannels);
  KeyClusterer(MakeGeometry(2, 8, {0})).Cluster(k.data(), kTokens, NumKeyClusters(kTokens), want);
  ASSERT_EQ(record->key_centroids.size(), want.size() * sizeof(uint16_t));
  EXPECT_EQ(std::memcmp(record->key_centroids.data(), want.data(), record->key_centroids.size()),
            0);
  EXPECT_TRUE(std::ranges::equal(sealer_.key_centroids(), want));
}

TEST_F(SealerTest, WindowLayersAndPrivatePagesHaveNoCentroids) {
  KvPolicy policy = policy_.policy;
  policy.tokens = "clusterkv";
  policy_ = ResolvedPolicy::Resolve(policy, MakeGeometry(2, 8, {0, 64})).value();
  sealer_.Reserve(policy_);
  PageIdentity scratch = Identity(0);
  scratch.key.space = PageKey::Space::kScratch;
  for (const PageIdentity& identity : {Identity(1), scratch}) {
    const auto bytes = sealer_.Seal(policy_, identity, run_);
    EXPECT_TRUE(ParsePageRecord(bytes, identity)->key_centroids.empty());
    EXPECT_TRUE(sealer_.key_centroids().empty());
  }
}

TEST_F(SealerTest, TailsComeBackBitForBit) {
  for (const int32_t tokens : {1, 7, kTokens}) {
    const PageIdentity identity = Identity(0, RecordKind::kTail, tokens);
    const auto bytes = sealer_.WriteTail(policy_, identity, run_);
    const auto record = ParsePageRecord(bytes, identity);
    ASSERT_OK(record);
    UnsealedRun back;
    back.token_capacity = kTokens;
    back.bytes.resize(run_.bytes.size());
    sealer_.ReadTail(policy_, *record, back);
    std::vector<float> k[2];
    std::vector<float> v[2];
    for (int i = 0; i < 2; ++i) {
      k[i].resize(static_cast<size_t>(tokens) * kChannels);
      v[i].resize(k[i].size());
      policy_.exact->Decode(sealer_.ShapeOf(kTokens),
                            0,
                            tokens,
                            i == 0 ? run_.bytes : back.bytes,
                            {},
                            k[i].data(),
                            v[i].data());
    }
    EXPECT_EQ(k[0], k[1]);
    EXPECT_EQ(v[0], v[1]);
  }
}

}  // namespace
}  // namespace varve
