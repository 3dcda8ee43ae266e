#include "kvstore/io_pool.h"

#include <atomic>

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(IoPoolTest, RunsEveryJobBeforeItEnds) {
  std::atomic<int> done{0};
  {
    IoPool pool(3);
    EXPECT_EQ(pool.num_threads(), 3);
    for (int i = 0; i < 1000; ++i) {
      pool.Submit([&] { ++done; });
    }
  }
  EXPECT_EQ(done, 1000);
}

}  // namespace
}  // namespace varve
