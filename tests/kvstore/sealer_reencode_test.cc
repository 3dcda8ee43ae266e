// Records on their way down the ladder: what is encoded anew, what stays byte for byte, and that
// summaries are those of the keys that a reader decodes.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "kvstore/sealer.h"
#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int32_t kTokens = 64;
constexpr int32_t kHeads = 2;
constexpr int32_t kHeadDim = 32;
constexpr size_t kChannels = kHeads * kHeadDim;

struct Decoded {
  std::vector<float> k;  // [tokens, channels], run by run
  std::vector<float> v;
};

class ReencodeTest : public testing::Test {
 protected:
  ReencodeTest() : sealer_(Geometry()) {
    Rng rng(5);
    for (size_t i = 0; i < k_.size(); ++i) {
      k_[i] = 2 * rng.NextNormal();
      v_[i] = rng.NextNormal();
    }
  }
  static KvGeometry Geometry() {
    KvGeometry geometry = MakeGeometry(kHeads, kHeadDim, {0, 64});
    geometry.num_qo_heads = 4;
    return geometry;
  }
  void Use(KvPolicy policy) {
    policy.page_tokens = kTokens;
    policy.codec = "int8";
    policy.warm_codec = "int4";
    policy.cold_codec = "int2";
    policy_ = ResolvedPolicy::Resolve(policy, Geometry()).value();
    sealer_.Reserve(policy_);
    run_.token_capacity = kTokens;
    run_.bytes.resize(policy_.exact->EncodedBytes(sealer_.ShapeOf(kTokens)));
    policy_.exact->Encode(
        sealer_.ShapeOf(kTokens), 0, kTokens, k_.data(), v_.data(), kChannels, {}, run_.bytes);
  }
  PageIdentity Identity(uint64_t page = 0, uint16_t layer = 0) const {
    PageIdentity identity;
    identity.key = PageKey{PageKey::Space::kContext, 1, layer, layer, page};
    identity.num_kv_heads = kHeads;
    identity.head_dim = kHeadDim;
    identity.page_tokens = kTokens;
    identity.num_tokens = kTokens;
    identity.first_position = static_cast<int64_t>(page) * kTokens;
    return identity;
  }
  std::vector<std::byte> Seal(const PageIdentity& identity) {
    return sealer_.Seal(policy_, identity, run_);
  }
  std::vector<std::byte> Down(const std::vector<std::byte>& bytes,
                              const PageIdentity& identity,
                              Rung rung) {
    const auto record = ParsePageRecord(bytes, identity);
    EXPECT_OK(record);
    auto down = sealer_.Reencode(policy_, rung, *record, bytes.size());
    EXPECT_OK(down);
    return std::move(down).value();
  }
  Decoded Decode(const PageRecord& record) {
    Decoded all;
    for (const PageRun& run : record.runs) {
      const size_t at = all.k.size();
      all.k.resize(at + static_cast<size_t>(run.num_tokens) * kChannels);
      all.v.resize(all.k.size());
      run.codec->Decode(sealer_.ShapeOf(run.token_capacity),
                        0,
                        run.num_tokens,
                        run.encoded,
                        sealer_.ContextOf(record, run).value(),
                        all.k.data() + at,
                        all.v.data() + at);
    }
    return all;
  }
  static double ErrorOf(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return std::sqrt(error / static_cast<double>(a.size()));
  }

  Sealer sealer_;
  ResolvedPolicy policy_;
  UnsealedRun run_;
  std::vector<float> k_ = std::vector<float>(kTokens * kChannels);
  std::vector<float> v_ = std::vector<float>(kTokens * kChannels);
};

TEST_F(ReencodeTest, EachRungIsSmallerAndFurtherFromTheNumbersAndSaysWhereItStands) {
  Use({});
  const PageIdentity identity = Identity(3);
  std::vector<std::byte> bytes = Seal(identity);
  double error = 0.0;
  for (const Rung rung : {Rung::kHot, Rung::kWarm, Rung::kCold}) {
    if (rung != Rung::kHot) {
      const auto down = Down(bytes, identity, rung);
      ASSERT_FALSE(down.empty());
      EXPECT_LT(down.size(), bytes.size());
      bytes = down;
    }
    const auto record = ParsePageRecord(bytes, identity);
    ASSERT_OK(record);
    EXPECT_EQ(sealer_.RungOf(policy_, *record), rung);
    EXPECT_EQ(sealer_.RungOf(policy_, identity, bytes.size()), rung);
    const double now = ErrorOf(Decode(*record).k, k_);
    EXPECT_GT(now, error);
    EXPECT_LT(now, 1.5);
    error = now;
  }
}

TEST_F(ReencodeTest, ARungThatIsReachedOrAboveChangesNothing) {
  Use({});
  const auto hot = Seal(Identity(1));
  EXPECT_TRUE(Down(hot, Identity(1), Rung::kHot).empty());
  const auto cold = Down(hot, Identity(1), Rung::kCold);
  EXPECT_TRUE(Down(cold, Identity(1), Rung::kWarm).empty());
  EXPECT_TRUE(Down(cold, Identity(1), Rung::kCold).empty());
}

TEST_F(ReencodeTest, SinksStayExact) {
  Use({});
  const auto hot = Seal(Identity(0));
  const auto cold = Down(hot, Identity(0), Rung::kCold);
  const auto before = ParsePageRecord(hot, Identity(0));
  const auto after = ParsePageRecord(cold, Identity(0));
  ASSERT_OK(after);
  ASSERT_EQ(after->runs.size(), 2U);
  EXPECT_EQ(after->runs[0].codec->id(), CodecId::kBf16);
  EXPECT_TRUE(std::ranges::equal(after->runs[0].encoded, before->runs[0].encoded));
  EXPECT_EQ(after->runs[1].codec->id(), CodecId::kInt2);
}

TEST_F(ReencodeTest, BoundsHoldForTheKeysThatAReaderDecodes) {
  Use({});
  const auto cold = Down(Seal(Identity(2)), Identity(2), Rung::kCold);
  const auto record = ParsePageRecord(cold, Identity(2));
  ASSERT_OK(record);
  const Decoded decoded = Decode(*record);
  for (size_t c = 0; c < kChannels; ++c) {
    uint16_t bits[2];
    std::memcpy(&bits[0], record->key_min_max.data() + 2 * c, 2);
    std::memcpy(&bits[1], record->key_min_max.data() + 2 * (kChannels + c), 2);
    const auto low = std::bit_cast<float>(static_cast<uint32_t>(bits[0]) << 16);
    const auto high = std::bit_cast<float>(static_cast<uint32_t>(bits[1]) << 16);
    float lowest = INFINITY;
    float highest = -INFINITY;
    for (size_t t = 0; t < kTokens; ++t) {
      lowest = std::min(lowest, decoded.k[t * kChannels + c]);
      highest = std::max(highest, decoded.k[t * kChannels + c]);
    }
    EXPECT_LE(low, lowest);
    EXPECT_GE(high, highest);
    EXPECT_NEAR(low, lowest, std::fabs(lowest) / 128);
    EXPECT_NEAR(high, highest, std::fabs(highest) / 128);
  }
}

TEST_F(ReencodeTest, CentroidsAreThoseOfTheKeysThatAReaderDecodes) {
  KvPolicy policy;
  policy.tokens = "clusterkv";
  Use(policy);
  const auto cold = Down(Seal(Identity(2)), Identity(2), Rung::kCold);
  const auto record = ParsePageRecord(cold, Identity(2));
  ASSERT_OK(record);
  const Decoded decoded = Decode(*record);
  KeyClusterer clusterer(Geometry());
  clusterer.Reserve(kTokens);
  std::vector<uint16_t> expected(record->key_centroids.size() / sizeof(uint16_t));
  clusterer.Cluster(decoded.k.data(), kTokens, NumKeyClusters(kTokens), expected);
  EXPECT_EQ(std::memcmp(expected.data(), record->key_centroids.data(), 2 * expected.size()), 0);
  EXPECT_TRUE(std::ranges::equal(sealer_.key_centroids(), expected));
}

TEST_F(ReencodeTest, PrunedRunsKeepTheirTokensAndOtherClassesTheirBytes) {
  KvPolicy policy;
  policy.tokens = "mikv";
  policy.keep = 0.5;
  Use(policy);
  const auto hot = Seal(Identity(1));
  const auto cold = Down(hot, Identity(1), Rung::kCold);
  const auto before = ParsePageRecord(hot, Identity(1));
  const auto after = ParsePageRecord(cold, Identity(1));
  ASSERT_OK(after);
  ASSERT_EQ(before->runs.size(), 2U);
  ASSERT_EQ(after->runs.size(), 2U);
  EXPECT_TRUE(after->is_pruned);
  EXPECT_EQ(after->runs[0].codec->id(), CodecId::kInt2);
  EXPECT_EQ(after->runs[1].codec->id(), CodecId::kRot2);
  EXPECT_TRUE(std::ranges::equal(after->runs[1].encoded, before->runs[1].encoded));
  for (size_t run = 0; run < 2; ++run) {
    const auto count = static_cast<size_t>(kHeads * after->runs[run].num_tokens);
    ASSERT_EQ(after->runs[run].num_tokens, before->runs[run].num_tokens);
    EXPECT_TRUE(std::equal(after->runs[run].token_indices,
                           after->runs[run].token_indices + count,
                           before->runs[run].token_indices));
  }
}

TEST_F(ReencodeTest, WeightsStay) {
  KvPolicy policy;
  policy.tokens = "kvcrush";
  policy.keep = 0.5;
  Use(policy);
  const auto hot = Seal(Identity(1));
  const auto before = ParsePageRecord(hot, Identity(1));
  ASSERT_OK(before);
  const auto cold = Down(hot, Identity(1), Rung::kCold);
  const auto after = ParsePageRecord(cold, Identity(1));
  ASSERT_OK(after);
  ASSERT_OK(after);
  ASSERT_NE(before->runs[0].token_weights, nullptr);
  ASSERT_NE(after->runs[0].token_weights, nullptr);
  EXPECT_TRUE(std::equal(after->runs[0].token_weights,
                         after->runs[0].token_weights + kHeads * after->runs[0].num_tokens,
                         before->runs[0].token_weights));
}

}  // namespace
}  // namespace varve
