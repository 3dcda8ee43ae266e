#include "ops/cli/eval/recorded_kv.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

const std::string kMini = std::string(VARVE_SOURCE_DIR) + "/ops/models/mini";

std::string Repeat(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) {
    all += text + std::to_string(i) + " ";
  }
  return all;
}

Result<RecordedKv> Record(double outliers,
                          const LabText& text,
                          int64_t tokens,
                          const std::vector<const Codec*>& codecs) {
  VARVE_TRY(const PreparedModel prepared,
            PreparedModel::Make({.model_dir = kMini, .outliers = outliers, .threads = 2}));
  LabProgress progress(stderr);
  return RecordKv(prepared, 2, text, tokens, codecs, &progress);
}

TEST(RecordedKv, HasTheSealedPagesOfTheSecondHalfInGlobalLayers) {
  const LabText text{"text", Repeat("It rained all day. ", 400), ""};
  const auto kv = Record(1, text, 1100, {});
  ASSERT_OK(kv);
  EXPECT_EQ(kv->model, "mini");
  EXPECT_EQ(kv->page, (RunShape{.num_kv_heads = 2, .head_dim = 64, .token_capacity = 128}));
  // 1,100 tokens: pages that begin at 550 or behind it and end 128 tokens before the end, of two
  // global layers of four.
  ASSERT_EQ(kv->pages.size(), 2U * 2U);
  EXPECT_EQ(kv->pages[0].layer, 1);
  EXPECT_EQ(kv->pages[0].first_position, 640);
  EXPECT_EQ(kv->pages[1].first_position, 768);
  EXPECT_EQ(kv->pages[3].layer, 3);
  for (const RecordedPage& page : kv->pages) {
    for (const std::vector<float>* values : {&page.k, &page.v}) {
      ASSERT_EQ(values->size(), 128U * 2U * 64U);
      // Every token is there: none is zero, none is absurd.
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
  const LabText text{"text", Repeat("The river rose by a foot. ", 300), ""};
  const auto plain = Record(1, text, 800, {});
  const auto with = Record(20, text, 800, {});
  ASSERT_OK(plain);
  ASSERT_OK(with);
  EXPECT_EQ(with->outliers, 20);
  // The same model: the other channels are the same, a few are 20 times as large.
  size_t same = 0;
  size_t larger = 0;
  for (size_t i = 0; i < 128; ++i) {
    const float before = plain->pages[0].k[i];
    const float after = with->pages[0].k[i];
    same += std::fabs(after - before) <= 1e-3F * std::fabs(before) + 1e-3F ? 1 : 0;
    larger += std::fabs(after - 20 * before) <= 1e-3F * std::fabs(20 * before) + 1e-2F ? 1 : 0;
  }
  EXPECT_GE(same, 120U);
  EXPECT_GE(larger, 8U);  // two pairs in each of two heads
}

TEST(RecordedKv, TablesAreMadeWithTheFirstHalfForEveryLayer) {
  const Codec* codec = FindCodec("klt4").value();
  const Codec* plain = FindCodec("rot4").value();
  const std::string beginning = Repeat("It rained all day. ", 70);
  const auto kv = Record(1, {"a", beginning + Repeat("Nobody went out. ", 200), ""}, 1100, {codec});
  const auto other =
      Record(1, {"b", beginning + Repeat("The river rose. ", 200), ""}, 1100, {codec, plain});
  ASSERT_OK(kv);
  ASSERT_OK(other);
  EXPECT_EQ(kv->tables.all().size(), 4U);
  for (const RecordedPage& page : kv->pages) {
    const RunContext context = kv->ContextOf(*codec, page);
    ASSERT_NE(context.tables, nullptr);
    EXPECT_EQ(context.first_position, page.first_position);
    EXPECT_EQ(context.rope, nullptr);  // its global layers have no positions
    EXPECT_EQ(kv->ContextOf(*plain, page).tables, nullptr);
    // What is measured differs; the first half does not, and the tables know nothing else.
    EXPECT_EQ(context.tables->hash, other->ContextOf(*codec, page).tables->hash);
  }
  EXPECT_NE(kv->pages[0].k, other->pages[0].k);
}

TEST(RecordedKv, RefusesTextThatFillsNoPage) {
  const auto kv = Record(1, {"short", "It rained.", ""}, 2000, {});
  ASSERT_FALSE(kv);
  EXPECT_THAT(kv.error().message, HasSubstr("tokens of 'short' fill no page"));
}

}  // namespace
}  // namespace varve::cli
