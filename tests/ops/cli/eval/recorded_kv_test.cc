#include "ops/cli/eval/recorded_kv.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

const std::string kMini = std::string(VARVE_SOURCE_DIR) + "/ops/models/mini";

TEST(RecordedKv, HasTheSealedPagesOfTheGlobalLayers) {
  const auto kv =
      RecordKv({.model_dir = kMini, .threads = 2}, {"text", "It rained all day. "}, 600);
  ASSERT_OK(kv);
  EXPECT_EQ(kv->model, "mini");
  EXPECT_EQ(kv->page, (RunShape{.num_kv_heads = 2, .head_dim = 64, .token_capacity = 128}));
  // 600 tokens: pages that end 128 tokens before the end, of two global layers of four.
  ASSERT_EQ(kv->pages.size(), 2U * 3U);
  EXPECT_EQ(kv->pages[0].layer, 1);
  EXPECT_EQ(kv->pages[5].layer, 3);
  for (const RecordedPage& page : kv->pages) {
    for (const std::vector<float>* values : {&page.k, &page.v}) {
      ASSERT_EQ(values->size(), 128U * 2U * 64U);
      // Every token is there, sinks included: none is zero, none is absurd.
      for (size_t token = 0; token < 128; ++token) {
        double square = 0;
        for (size_t i = token * 128; i < (token + 1) * 128; ++i) {
          square += std::pow((*values)[i], 2);
        }
        EXPECT_GT(square, 1e-3);
        EXPECT_LT(square, 1e5);
      }
    }
  }
}

TEST(RecordedKv, OutliersAreInTheRecord) {
  const LabText text{"text", "The river rose by a foot. "};
  const auto plain = RecordKv({.model_dir = kMini, .threads = 2}, text, 400);
  const auto with = RecordKv({.model_dir = kMini, .outliers = 20, .threads = 2}, text, 400);
  ASSERT_OK(plain);
  ASSERT_OK(with);
  // The same model: the other channels are the same, a few are 20 times as large.
  size_t same = 0;
  size_t larger = 0;
  for (size_t i = 0; i < 128; ++i) {
    const float before = plain->pages[0].k[i];
    const float after = with->pages[0].k[i];
    same += std::fabs(after - before) <= 1e-3F * std::fabs(before) + 1e-4F ? 1 : 0;
    larger += std::fabs(after - 20 * before) <= 1e-3F * std::fabs(20 * before) + 1e-3F ? 1 : 0;
  }
  EXPECT_GE(same, 120U);
  EXPECT_GE(larger, 8U);  // two pairs in each of two heads
}

TEST(RecordedKv, RefusesTextThatFillsNoPage) {
  const auto kv = RecordKv({.model_dir = kMini, .threads = 1}, {"short", "It rained."}, 200);
  ASSERT_FALSE(kv);
  EXPECT_THAT(kv.error().message, HasSubstr("200 tokens of 'short'"));
}

}  // namespace
}  // namespace varve::cli
