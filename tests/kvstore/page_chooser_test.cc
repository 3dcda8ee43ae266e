#include "kvstore/page_chooser.h"

#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int32_t kKvHeads = 2;
constexpr int32_t kQoHeads = 4;
constexpr int32_t kDim = 8;
constexpr int32_t kClusters = 2;
constexpr int32_t kPageTokens = 32;  // as many as make two clusters
constexpr int64_t kPages = 21;       // the last block is not full

KvGeometry Geometry() {
  KvGeometry geometry = MakeGeometry(kKvHeads, kDim, {0});
  geometry.num_qo_heads = kQoHeads;
  return geometry;
}

uint16_t Bits(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

class PageChooserTest : public testing::Test {
 protected:
  PageChooserTest() : q_(size_t{40} * kQoHeads * kDim) {
    EXPECT_OK(index_.Reserve(host_, kPages));
    // For a query of 1 in channel 0 page p has the score p / 4 with head 0 and (20 - p) / 4 with
    // head 1, by one of its clusters.
    for (int64_t page = 0; page < kPages; ++page) {
      std::vector<uint16_t> centroids(size_t{kClusters} * kKvHeads * kDim);
      const auto number = static_cast<float>(page);
      for (int64_t cluster = 0; cluster < kClusters; ++cluster) {
        const float less = cluster == page % 2 ? 0.0F : 1.0F;
        uint16_t* const row = centroids.data() + cluster * kKvHeads * kDim;
        row[0] = Bits(number / 4 - less);
        row[kDim] = Bits((20 - number) / 4 - less);
      }
      index_.Add(centroids);
    }
  }
  float& Q(size_t token, size_t head, size_t channel) {
    return q_[(token * kQoHeads + head) * kDim + channel];
  }
  std::vector<int64_t> Choose(int64_t first, int64_t end, int64_t count, int64_t num_tokens = 1) {
    return chooser_.Choose(
        index_, first, end, count, {q_.data(), size_t{kQoHeads} * kDim, num_tokens});
  }

  MemoryTier host_{"host", 0, nullptr};
  KeyIndex index_{Geometry(), kPageTokens};
  PageChooser chooser_{Geometry()};
  std::vector<float> q_;  // zeros
};

TEST_F(PageChooserTest, HeadsTakeTheirBestPagesInTurn) {
  Q(0, 1, 0) = 1;  // of head 0: it likes late pages
  Q(0, 2, 0) = 1;  // of head 1: early ones
  EXPECT_EQ(Choose(0, kPages, 1), (std::vector<int64_t>{20}));
  EXPECT_EQ(Choose(0, kPages, 2), (std::vector<int64_t>{0, 20}));
  EXPECT_EQ(Choose(0, kPages, 5), (std::vector<int64_t>{0, 1, 18, 19, 20}));
  EXPECT_EQ(Choose(3, 10, 3), (std::vector<int64_t>{3, 8, 9}));
}

TEST_F(PageChooserTest, APageThatIsTakenCostsNoTurn) {
  for (size_t head = 0; head < kQoHeads; ++head) {
    Q(0, head, 0) = head < 2 ? 1.0F : -1.0F;  // all of them like late pages
  }
  EXPECT_EQ(Choose(0, kPages, 4), (std::vector<int64_t>{17, 18, 19, 20}));
}

// The largest product of any query of the group decides, in a step of more queries than are
// multiplied at once, too.
TEST_F(PageChooserTest, EveryQueryOfTheStepAndEveryHeadOfTheGroupCounts) {
  Q(0, 0, 0) = -1;
  Q(39, 1, 0) = 2;
  EXPECT_EQ(Choose(0, kPages, 1, 40), (std::vector<int64_t>{20}));
  EXPECT_EQ(Choose(0, kPages, 1, 39), (std::vector<int64_t>{0}));
}

TEST_F(PageChooserTest, TheLowestOfEqualPagesIsTaken) {
  EXPECT_EQ(Choose(2, kPages, 3), (std::vector<int64_t>{2, 3, 4}));
}

TEST_F(PageChooserTest, QueriesThatAreNoNumbersChooseThePagesInOrder) {
  std::fill(q_.begin(), q_.end(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(Choose(0, kPages, 2), (std::vector<int64_t>{0, 1}));
}

TEST_F(PageChooserTest, AllOrNoneNeedNoScores) {
  EXPECT_EQ(Choose(4, 7, 3), (std::vector<int64_t>{4, 5, 6}));
  EXPECT_TRUE(Choose(5, 5, 0).empty());
}

}  // namespace
}  // namespace varve
