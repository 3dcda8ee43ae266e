#include "worker/partition.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(Partition, SplitsAsEvenlyAsCanBe) {
  EXPECT_EQ(SplitEvenly(9, 8), (std::vector<size_t>{2, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(SplitEvenly(4, 8), (std::vector<size_t>{1, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(SplitEvenly(16, 8), std::vector<size_t>(8, 2));
  EXPECT_EQ(SplitEvenly(0, 2), (std::vector<size_t>{0, 0}));
}

TEST(Partition, PartsAreConsecutiveAndCoverAll) {
  const std::vector<size_t> counts = SplitEvenly(15, 4);
  size_t next = 0;
  for (size_t part = 0; part < 4; ++part) {
    const Range range = PartOf(counts, part);
    EXPECT_EQ(range.begin, next);
    next = range.end();
  }
  EXPECT_EQ(next, 15U);
}

TEST(Partition, OverlapIsRelativeToItsSegment) {
  const Range own{.begin = 8, .count = 4};
  EXPECT_EQ(Overlap(own, 0, 9).begin, 8U);
  EXPECT_EQ(Overlap(own, 0, 9).count, 1U);
  EXPECT_EQ(Overlap(own, 9, 3).begin, 0U);
  EXPECT_EQ(Overlap(own, 9, 3).count, 3U);
  EXPECT_EQ(Overlap(own, 12, 3).count, 0U);
  EXPECT_EQ(Overlap(own, 0, 8).count, 0U);
}

}  // namespace
}  // namespace varve
