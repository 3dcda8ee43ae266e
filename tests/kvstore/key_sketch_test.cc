#include "kvstore/key_sketch.h"

#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int32_t kKvHeads = 2;
constexpr int32_t kQoHeads = 6;
constexpr int32_t kPageTokens = 32;

// Keys with a large part in common, as models have them, and what their masses are.
class KeySketchTest : public testing::TestWithParam<int32_t> {
 protected:
  KeySketchTest() {
    geometry_ = MakeGeometry(kKvHeads, GetParam(), {0});
    geometry_.num_qo_heads = kQoHeads;
    geometry_.sm_scale = 1.0F / std::sqrt(static_cast<float>(GetParam()));
    Rng rng(3);
    const size_t floats = static_cast<size_t>(kKvHeads * GetParam());
    common_.resize(floats);
    for (float& x : common_) {
      x = 4.0F * rng.NextNormal();
    }
  }
  size_t head_dim() const { return static_cast<size_t>(GetParam()); }
  std::vector<float> Keys(int32_t tokens, uint64_t seed) const {
    Rng rng(seed);
    std::vector<float> keys;
    for (int32_t t = 0; t < tokens; ++t) {
      for (const float x : common_) {
        keys.push_back(x + rng.NextNormal());
      }
    }
    return keys;
  }
  std::vector<float> Queries(int64_t tokens) const {
    Rng rng(99);
    std::vector<float> q(static_cast<size_t>(tokens) * kQoHeads * head_dim());
    for (float& x : q) {
      x = rng.NextNormal();
    }
    return q;
  }
  double Lse(const std::vector<float>& keys, const float* q, size_t kv_head) const {
    double sum = 0.0;
    for (size_t at = kv_head * head_dim(); at < keys.size(); at += common_.size()) {
      double score = 0.0;
      for (size_t d = 0; d < head_dim(); ++d) {
        score += static_cast<double>(keys[at + d]) * q[d];
      }
      sum += std::exp(score * geometry_.sm_scale);
    }
    return std::log(sum);
  }

  KvGeometry geometry_;
  std::vector<float> common_;
};

TEST_P(KeySketchTest, EstimatesTheMassOfEachPageForEachQueryAndHead) {
  MemoryTier host("host", 0, nullptr);
  KeySketch sketch(geometry_, kPageTokens);
  constexpr int64_t kPages = 70;  // the last block is not full
  ASSERT_OK(sketch.Reserve(host, kPages));
  EXPECT_GE(host.used(), kPages * sketch.BytesPerPage());
  std::vector<std::vector<float>> pages;
  for (int64_t page = 0; page < kPages; ++page) {
    // Also pages that were pruned to fewer tokens, to one and to none.
    const int32_t tokens = page == 5 ? 0 : page == 6 ? 1 : page % 3 == 0 ? 20 : kPageTokens;
    pages.push_back(Keys(tokens, static_cast<uint64_t>(page)));
    std::vector<float> keys = pages.back();
    sketch.Add(keys.data(), tokens);
  }
  EXPECT_EQ(sketch.num_pages(), kPages);
  for (const int64_t tokens : {1, 9}) {
    const std::vector<float> q = Queries(tokens);
    const StepQueries queries{q.data(), kQoHeads * head_dim(), tokens};
    constexpr int64_t kFirst = 2;
    std::vector<float> lse(static_cast<size_t>((kPages - kFirst) * tokens * kQoHeads));
    AttendScratch scratch;
    ThreadTeam team(2);
    sketch.Score(kFirst, kPages, queries, scratch, team, lse.data());
    double squares = 0.0;
    int64_t count = 0;
    for (int64_t page = kFirst; page < kPages; ++page) {
      for (int64_t row = 0; row < tokens * kQoHeads; ++row) {
        const float estimate = lse[static_cast<size_t>((page - kFirst) * tokens * kQoHeads + row)];
        if (page == 5) {
          EXPECT_EQ(estimate, -INFINITY);
          continue;
        }
        const auto kv_head = static_cast<size_t>(row % kQoHeads) / (kQoHeads / kKvHeads);
        const double difference = estimate - Lse(pages[static_cast<size_t>(page)],
                                                 q.data() + static_cast<size_t>(row) * head_dim(),
                                                 kv_head);
        EXPECT_LT(std::fabs(difference), 0.8) << "page " << page << " row " << row;
        squares += difference * difference;
        ++count;
      }
    }
    // 2 bits without the part in common leave an eighth of the variance of scores of size 1, over
    // 20 to 32 keys.
    EXPECT_LT(std::sqrt(squares / static_cast<double>(count)), 0.15);
  }
}

INSTANTIATE_TEST_SUITE_P(HeadDims, KeySketchTest, testing::Values(64, 80));

TEST(KeySketch, SaysWhatTheHostBudgetCannotHold) {
  KvGeometry geometry = MakeGeometry(kKvHeads, 64, {0});
  geometry.num_qo_heads = kQoHeads;
  MemoryTier host("host", 100000, nullptr);
  KeySketch sketch(geometry, kPageTokens);
  const auto reserved = sketch.Reserve(host, 1000);
  ASSERT_FALSE(reserved);
  EXPECT_EQ(reserved.error().code, ErrorCode::kBudgetExceeded);
  EXPECT_NE(reserved.error().message.find("key sketch"), std::string::npos);
}

}  // namespace
}  // namespace varve
