#include "ops/cli/table_making.h"

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kMini = std::string(VARVE_SOURCE_DIR) + "/ops/models/mini";

std::vector<int32_t> RandomTokens(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(8 + rng.Below(4000)));
  }
  return tokens;
}

TEST(CutSequences, EveryTokenOnceAndEachSequenceBehindTheBeginning) {
  const std::vector<int32_t> tokens = {5, 6, 7, 8, 9};
  EXPECT_THAT(CutSequences(tokens, std::nullopt, 2),
              ElementsAre(ElementsAre(5, 6), ElementsAre(7, 8), ElementsAre(9)));
  EXPECT_THAT(CutSequences(tokens, 1, 3),
              ElementsAre(ElementsAre(1, 5, 6, 7), ElementsAre(1, 8, 9)));
  EXPECT_TRUE(CutSequences({}, 1, 3).empty());
}

TEST(TableMaking, MakesTablesOfEveryCodecAndLayerAndSaysHowFarItIs) {
  const std::vector<const Codec*> codecs = {FindCodec("klt2").value(), FindCodec("nuq2").value()};
  std::map<std::string, std::pair<int64_t, int64_t>> last;
  const auto made = MakeCodecTables({.model_dir = kMini,
                                     .sequences = {RandomTokens(400, 1), RandomTokens(200, 2)},
                                     .codecs = codecs,
                                     .threads = 2},
                                    [&](std::string_view what, int64_t done, int64_t total) {
                                      auto& [done_before, total_before] = last[std::string(what)];
                                      EXPECT_GE(done, done_before);
                                      done_before = done;
                                      total_before = total;
                                    });
  ASSERT_OK(made);
  EXPECT_NE(made->model_hash, 0U);
  EXPECT_EQ(made->tables.all().size(), 2U * 4U);
  for (const Codec* codec : codecs) {
    for (int32_t layer = 0; layer < 4; ++layer) {
      const CodecTables* tables = made->tables.Find(codec->id(), layer);
      ASSERT_NE(tables, nullptr) << codec->name() << " " << layer;
      EXPECT_EQ(tables->values.size(), codec->TableFloats(2, 64));
    }
  }
  EXPECT_EQ(last.at("tokens"), (std::pair<int64_t, int64_t>(600, 600)));
  EXPECT_EQ(last.at("tables"), (std::pair<int64_t, int64_t>(8, 8)));
}

TEST(TableMaking, RefusesTooFewTokensAndModelsThatAreNotThere) {
  const auto ignore = [](std::string_view, int64_t, int64_t) {};
  const std::vector<const Codec*> codecs = {FindCodec("klt2").value()};
  const auto few = MakeCodecTables(
      {.model_dir = kMini, .sequences = {RandomTokens(500, 1)}, .codecs = codecs, .threads = 1},
      ignore);
  ASSERT_FALSE(few);
  EXPECT_EQ(few.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(few.error().message, HasSubstr("500 tokens; at least 512 are needed"));
  EXPECT_FALSE(MakeCodecTables({.model_dir = kMini + "/none",
                                .sequences = {RandomTokens(600, 1)},
                                .codecs = codecs,
                                .threads = 1},
                               ignore));
}

}  // namespace
}  // namespace varve::cli
