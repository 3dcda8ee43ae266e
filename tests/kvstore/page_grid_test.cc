#include "kvstore/page_grid.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

KvPolicy Policy(int32_t page_tokens, int32_t recent_window_tokens) {
  KvPolicy policy;
  policy.page_tokens = page_tokens;
  policy.recent_window_tokens = recent_window_tokens;
  return policy;
}

TEST(PageGridTest, EveryPageHasOneOwner) {
  for (const int32_t workers : {1, 2, 3, 8}) {
    for (const uint64_t owner : {1, 2, 3, 1000}) {
      for (int64_t page = 0; page < 50; ++page) {
        int owners = 0;
        for (int32_t rank = 0; rank < workers; ++rank) {
          owners += PageGrid(Policy(16, 0), {rank, workers}, owner).Owns(page) ? 1 : 0;
        }
        EXPECT_EQ(owners, 1);
      }
    }
  }
}

TEST(PageGridTest, NextOwnedAndCountOwnedAgreeWithOwns) {
  for (const int32_t workers : {1, 2, 3, 8}) {
    const PageGrid grid(Policy(16, 0), {workers - 1, workers}, 77);
    for (int64_t first = 0; first < 20; ++first) {
      int64_t expected = first;
      while (!grid.Owns(expected)) {
        ++expected;
      }
      EXPECT_EQ(grid.NextOwned(first), expected);
      for (int64_t end = 0; end < 30; ++end) {
        int64_t count = 0;
        for (int64_t page = first; page < end; ++page) {
          count += grid.Owns(page) ? 1 : 0;
        }
        EXPECT_EQ(grid.CountOwned(first, end), count);
      }
    }
  }
}

TEST(PageGridTest, APageIsSealedWhenAllItsTokensAreOlderThanTheRecentWindow) {
  for (const int32_t recent : {0, 1, 7, 8, 20}) {
    const PageGrid grid(Policy(8, recent), {0, 1}, 1);
    for (int64_t length = 0; length < 100; ++length) {
      for (int64_t page = 0; page < 14; ++page) {
        const bool old = grid.EndPosition(page) <= length - recent;
        EXPECT_EQ(page < grid.SealedEnd(length), old) << length << " " << page;
      }
    }
  }
}

TEST(PageGridTest, APageIsReachableWhileAnyOfItsTokensIsInTheWindow) {
  const PageGrid grid(Policy(8, 8), {0, 1}, 1);
  for (const int64_t window : {1, 8, 9, 40}) {
    for (int64_t position = 0; position < 100; ++position) {
      for (int64_t page = 0; page <= grid.PageOf(position); ++page) {
        const bool seen = grid.EndPosition(page) - 1 > position - window;
        EXPECT_EQ(page >= grid.FirstReachable(position, window), seen)
            << window << " " << position << " " << page;
      }
    }
  }
  EXPECT_EQ(grid.FirstReachable(1000, 0), 0);
}

TEST(PageGridTest, LayersWhoseWindowIsNoLongerThanTheRecentWindowNeverSeal) {
  const PageGrid grid(Policy(8, 24), {0, 1}, 1);
  for (int64_t length = 0; length < 200; ++length) {
    EXPECT_GE(grid.FirstReachable(length, 24), grid.SealedEnd(length));
  }
}

TEST(PageGridTest, OwnedPagesAreFoundByTheirNumber) {
  const KvPolicy policy;
  for (int32_t rank = 0; rank < 3; ++rank) {
    const PageGrid grid(policy, {rank, 3}, 17);
    for (int64_t count = 0; count < 10; ++count) {
      const int64_t page = grid.OwnedPage(count);
      EXPECT_TRUE(grid.Owns(page));
      EXPECT_EQ(grid.CountOwned(0, page), count);
    }
  }
}

}  // namespace
}  // namespace varve
