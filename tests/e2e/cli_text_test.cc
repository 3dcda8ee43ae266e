// The parts of the command line that only shape text: chunks, progress, tables, event streams.
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "proto/base/rng.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/progress.h"
#include "ops/cli/sse.h"
#include "ops/cli/table.h"
#include "ops/cli/text_chunks.h"

namespace varve::cli {
namespace {

TEST(ChunkEnd, CutsAfterLinesElseSpacesElseCodePoints) {
  EXPECT_EQ(ChunkEnd("short", 0, 16), 5U);
  EXPECT_EQ(ChunkEnd("one line\nand another", 0, 16), 9U);
  EXPECT_EQ(ChunkEnd("words without any line", 0, 16), 14U);
  EXPECT_EQ(ChunkEnd("aaaaaaaaaaaaaaaaaaaa", 0, 16), 16U);
  const std::string umlauts = "\xC3\xA4\xC3\xB6\xC3\xBC\xC3\x9F";  // two bytes each
  EXPECT_EQ(ChunkEnd(umlauts, 0, 5), 4U);
  EXPECT_EQ(ChunkEnd("", 0, 16), 0U);
}

TEST(ChunkEnd, GivesTheSameCutsFromAnyResumePoint) {
  Rng rng(7);
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text.push_back("ab \n"[rng.Below(4)]);
  }
  std::vector<size_t> cuts;
  for (size_t at = 0; at < text.size();) {
    at = ChunkEnd(text, at, 64);
    cuts.push_back(at);
  }
  EXPECT_EQ(cuts.back(), text.size());
  for (size_t from = 0; from < text.size(); ++from) {
    const size_t end = ChunkEnd(text, from, 64);
    EXPECT_GT(end, from);
    EXPECT_NE(std::find(cuts.begin(), cuts.end(), end), cuts.end()) << "resumed at " << from;
  }
}

TEST(FindInvalidUtf8, FindsEachKindOfDamage) {
  EXPECT_FALSE(FindInvalidUtf8("plain, \xC3\xA4, \xE2\x82\xAC, \xF0\x9F\x98\x80"));
  EXPECT_EQ(FindInvalidUtf8("ab\xFFz"), 2U);
  EXPECT_EQ(FindInvalidUtf8("a\x80"), 1U);             // a continuation without a lead
  EXPECT_EQ(FindInvalidUtf8("a\xC3"), 1U);             // cut off
  EXPECT_EQ(FindInvalidUtf8("\xC0\xAF"), 0U);          // overlong
  EXPECT_EQ(FindInvalidUtf8("\xE0\x80\xAF"), 0U);      // overlong
  EXPECT_EQ(FindInvalidUtf8("\xED\xA0\x80"), 0U);      // a surrogate
  EXPECT_EQ(FindInvalidUtf8("\xF4\x90\x80\x80"), 0U);  // beyond U+10FFFF
}

TEST(ReadTexts, JoinsFilesOnLinesOfTheirOwn) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("a"), "one"));
  ASSERT_OK(WriteFileAtomically(dir.File("b"), "two\n"));
  ASSERT_OK(WriteFileAtomically(dir.File("c"), "three"));
  const auto text = ReadTexts({dir.File("a"), dir.File("b"), dir.File("c")});
  ASSERT_OK(text);
  EXPECT_EQ(*text, "one\ntwo\nthree");
}

TEST(ReadTexts, RefusesWhatIsNoText) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("empty"), ""));
  ASSERT_OK(WriteFileAtomically(dir.File("binary"), "\xFF\xFE"));
  EXPECT_ERROR(ReadTexts({dir.File("empty")}), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(ReadTexts({dir.File("binary")}), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(ReadTexts({dir.File("missing")}), ErrorCode::kNotFound);
}

TEST(Progress, ShowsWhatIsDoneAndWhatIsSent) {
  IngestProgress progress{.text_bytes = 1000, .text_bytes_sent = 700, .text_bytes_done = 500};
  progress.tokens_done = 12345;
  EXPECT_EQ(FormatProgress("notes", progress, 10), "notes [#####++---]  50 %  12,345 tokens");
  progress.tokens_per_s = 812.4;
  progress.eta_s = 20.2;
  EXPECT_EQ(FormatProgress("notes", progress, 10),
            "notes [#####++---]  50 %  12,345 tokens  812 tokens/s  ETA 0:21");
}

TEST(Progress, NeverPassesTheEnd) {
  const IngestProgress progress{.text_bytes = 10, .text_bytes_sent = 20, .text_bytes_done = 30};
  EXPECT_EQ(FormatProgress("x", progress, 4), "x [####] 100 %  0 tokens");
  EXPECT_EQ(FormatProgress("x", IngestProgress{}, 4), "x [----]   0 %  0 tokens");
}

TEST(Format, CountsAndDurations) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatCount(-123456), "-123,456");
  EXPECT_EQ(FormatDuration(-3), "0:00");
  EXPECT_EQ(FormatDuration(59.2), "1:00");
  EXPECT_EQ(FormatDuration(7509), "2:05:09");
}

TEST(Table, AlignsTextLeftAndFiguresRight) {
  Table table({"NAME", "TOKENS", "CODEC"});
  table.AddRow({"notes", "1,234", "int8"});
  table.AddRow({"2nd", "-", "bf16"});
  EXPECT_EQ(table.Format(),
            "NAME   TOKENS  CODEC\n"
            "notes   1,234  int8\n"
            "2nd         -  bf16\n");
}

TEST(Table, HeaderlessAndEmpty) {
  EXPECT_EQ(Table({}).Format(), "");
  Table table({});
  table.AddRow({"a", "1"});
  table.AddRow({"longer", "22"});
  EXPECT_EQ(table.Format(), "a       1\nlonger  22\n");
}

std::vector<std::string> EventsOf(const std::string& stream, size_t piece_bytes) {
  SseParser parser;
  std::vector<std::string> events;
  for (size_t at = 0; at < stream.size(); at += piece_bytes) {
    parser.Feed(stream.substr(at, piece_bytes), [&](std::string_view data) {
      events.emplace_back(data);
      return true;
    });
  }
  return events;
}

TEST(SseParser, GivesTheSameEventsForAnyPieces) {
  const std::string stream =
      ": a comment\r\n\r\ndata: one\n\nevent: x\ndata:two\ndata: lines\r\n\r\ndata: {\"a\": "
      "1}\n\n\ndata: cut";
  const std::vector<std::string> expected = {"one", "two\nlines", "{\"a\": 1}"};
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    EXPECT_EQ(EventsOf(stream, piece), expected) << "pieces of " << piece;
  }
}

TEST(SseParser, StopsWhenTold) {
  SseParser parser;
  int events = 0;
  EXPECT_FALSE(
      parser.Feed("data: 1\n\ndata: 2\n\n", [&](std::string_view) { return ++events < 1; }));
  EXPECT_EQ(events, 1);
}

}  // namespace
}  // namespace varve::cli
