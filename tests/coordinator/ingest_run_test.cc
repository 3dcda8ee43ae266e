#include "coordinator/ingest_run.h"

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve {
namespace {

IngestPiece Piece(size_t num_tokens, char letter) {
  return IngestPiece{.tokens = std::vector<int32_t>(num_tokens, letter),
                     .text = std::string(num_tokens, letter),
                     .text_hash_after = static_cast<uint64_t>(letter)};
}

IngestRun NewRun(int64_t num_committed, int64_t commit_tokens = 100) {
  ContextManifest manifest;
  manifest.num_tokens = num_committed;
  manifest.version = 1;
  return IngestRun(SequenceId{1}, manifest, 256, commit_tokens);
}

TEST(IngestRun, BeginsAnEmptyContextWithTheBos) {
  IngestRun run = NewRun(0);
  ASSERT_OK(run.AddPiece(Piece(3, 'a'), 1000));
  EXPECT_EQ(run.AsRunnable().position, 0);
  EXPECT_EQ(run.AsRunnable().pending.size(), 4U);
  EXPECT_EQ(run.AsRunnable().pending[0], 256);
}

TEST(IngestRun, ContinuesAContextWithoutIt) {
  IngestRun run = NewRun(7);
  ASSERT_OK(run.AddPiece(Piece(3, 'a'), 1000));
  EXPECT_EQ(run.AsRunnable().position, 7);
  EXPECT_EQ(run.AsRunnable().pending.size(), 3U);
}

TEST(IngestRun, DoesNotRunPastTheNextCommit) {
  IngestRun run = NewRun(7);
  for (const char letter : {'a', 'b', 'c'}) {
    ASSERT_OK(run.AddPiece(Piece(40, letter), 1000));
  }
  EXPECT_EQ(run.AsRunnable().pending.size(), 80U);  // a third piece would pass 100 tokens
  run.Computed(79);
  EXPECT_FALSE(run.AtBoundary());
  run.Computed(1);
  EXPECT_TRUE(run.AtBoundary());
  EXPECT_FALSE(run.AtEnd());
  const ContextManifest manifest = run.NextManifest(5);
  EXPECT_EQ(manifest.num_tokens, 87);
  EXPECT_EQ(manifest.text_bytes, 80U);
  EXPECT_EQ(manifest.text_hash, static_cast<uint64_t>('b'));
  EXPECT_EQ(manifest.version, 2U);
  EXPECT_EQ(manifest.updated_unix_s, 5);
  EXPECT_EQ(run.NextAppend().tokens.size(), 80U);
  EXPECT_EQ(run.NextAppend().text, std::string(40, 'a') + std::string(40, 'b'));
  run.Committed(manifest);
  EXPECT_EQ(run.AsRunnable().position, 87);
  EXPECT_EQ(run.AsRunnable().pending.size(), 40U);
  EXPECT_FALSE(run.HasUncommitted());
}

TEST(IngestRun, TakesALongPieceWhole) {
  IngestRun run = NewRun(7);
  ASSERT_OK(run.AddPiece(Piece(150, 'a'), 1000));
  ASSERT_OK(run.AddPiece(Piece(10, 'b'), 1000));
  EXPECT_EQ(run.AsRunnable().pending.size(), 150U);
}

TEST(IngestRun, StopsAtTheEndOfThePieceWhenAsked) {
  IngestRun run = NewRun(7);
  for (const char letter : {'a', 'b', 'c'}) {
    ASSERT_OK(run.AddPiece(Piece(20, letter), 1000));
  }
  run.Computed(25);
  run.StopEarly();
  EXPECT_EQ(run.AsRunnable().pending.size(), 15U);
  run.Computed(15);
  EXPECT_TRUE(run.AtBoundary());
  EXPECT_EQ(run.NextManifest(0).text_bytes, 40U);
}

TEST(IngestRun, StopsAtOnceAtABoundary) {
  IngestRun run = NewRun(7);
  ASSERT_OK(run.AddPiece(Piece(20, 'a'), 1000));
  run.StopEarly();
  EXPECT_TRUE(run.AtBoundary());
  EXPECT_TRUE(run.AsRunnable().pending.empty());
  EXPECT_FALSE(run.HasUncommitted());
}

TEST(IngestRun, RefusesAContextLongerThanTheModel) {
  IngestRun run = NewRun(990);
  ASSERT_OK(run.AddPiece(Piece(10, 'a'), 1000));
  EXPECT_ERROR(run.AddPiece(Piece(1, 'b'), 1000), ErrorCode::kContextLength);
}

TEST(IngestRun, PassesTheTokenisersErrorOn) {
  IngestRun run = NewRun(0);
  EXPECT_ERROR(run.AddPiece(IngestPiece{.error = Error{ErrorCode::kInternal, "bad text"}}, 1000),
               ErrorCode::kInternal);
}

}  // namespace
}  // namespace varve
