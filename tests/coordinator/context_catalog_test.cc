#include "coordinator/context_catalog.h"

#include <gtest/gtest.h>

#include "tests/coordinator/fake_text_model.h"
#include "tests/coordinator/fake_worker_group.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

// A catalog whose tokeniser and engine the test plays.
struct Bench {
  FakeWorkerGroup workers;
  FakeTextModel text_model;
  ContextCatalog catalog{{.max_pending_bytes = 1000, .piece_bytes = 10, .max_ready_pieces = 2},
                         &workers,
                         &text_model,
                         &SystemClock()};

  void Tokenise() {
    const auto piece = catalog.WaitForPiece();
    ASSERT_TRUE(piece.has_value());
    catalog.AddPiece(*piece, text_model.EncodeDocument(piece->text, piece->is_continuation));
  }
};

TEST(ContextCatalog, CutsEachUploadByItself) {
  Bench bench;
  ASSERT_OK(bench.catalog.Create("doc", "aaaa bbbb cccc", {}));
  std::optional<AppendConflict> conflict;
  ASSERT_OK(bench.catalog.Append("doc", 14, Hash64("aaaa bbbb cccc"), " dddd", &conflict));
  std::vector<std::string> pieces;
  std::vector<bool> continuations;
  for (int i = 0; i < 3; ++i) {
    const auto piece = bench.catalog.WaitForPiece();
    pieces.push_back(piece->text);
    continuations.push_back(piece->is_continuation);
    bench.catalog.AddPiece(*piece, std::vector<int32_t>{1});
    bench.catalog.TakePieces(piece->context);
  }
  EXPECT_EQ(pieces, (std::vector<std::string>{"aaaa bbbb", " cccc", " dddd"}));
  EXPECT_EQ(continuations, (std::vector<bool>{false, true, true}));
}

TEST(ContextCatalog, TokenisesAheadWithALimit) {
  Bench bench;
  ASSERT_OK(bench.catalog.Create("doc", std::string(100, 'x'), {}));
  bench.Tokenise();
  bench.Tokenise();
  const ContextView view = *bench.catalog.Show("doc");
  EXPECT_EQ(view.tokens_pending, 100);  // 20 tokenised, 80 estimated at a token a byte
  ASSERT_OK(bench.catalog.Create("other", "x", {}));
  EXPECT_EQ(bench.catalog.WaitForPiece()->text, "x") << "the first context has enough";
}

TEST(ContextCatalog, DropsAPieceOfAnIngestThatFailed) {
  Bench bench;
  ASSERT_OK(bench.catalog.Create("doc", "first text", {}));
  const auto stale = bench.catalog.WaitForPiece();
  bench.catalog.FailIngest(stale->context, Error{ErrorCode::kIoError, "boom"});
  std::optional<AppendConflict> conflict;
  ASSERT_OK(bench.catalog.Append("doc", 0, Hash64(""), "other text", &conflict));
  bench.catalog.AddPiece(*stale, std::vector<int32_t>{1, 2, 3});
  EXPECT_TRUE(bench.catalog.TakePieces(stale->context).empty());
  bench.Tokenise();
  const auto pieces = bench.catalog.TakePieces(stale->context);
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_EQ(pieces[0].text, "other text");
  EXPECT_EQ(pieces[0].text_hash_after, Hash64("other text"));
}

TEST(ContextCatalog, ALeaseKeepsItsSnapshotAndBlocksDeletion) {
  Bench bench;
  ASSERT_OK(bench.catalog.Create("doc", "text", {}));
  EXPECT_ERROR(bench.catalog.Acquire("doc"), ErrorCode::kConflict);
  bench.Tokenise();
  const ContextId id = bench.catalog.ReadyToIngest().at(0);
  bench.catalog.TakePieces(id);
  ContextManifest manifest = bench.catalog.Manifest(id);
  manifest.num_tokens = 5;
  manifest.text_bytes = 4;
  manifest.text_hash = Hash64("text");
  bench.catalog.RecordCommit(manifest);
  EXPECT_TRUE(bench.catalog.FinishIngest(id));
  {
    auto lease = bench.catalog.Acquire("doc");
    ASSERT_OK(lease);
    EXPECT_EQ(lease->num_tokens(), 5);
    const ContextLease moved = *std::move(lease);
    EXPECT_ERROR(bench.catalog.BeginDelete("doc"), ErrorCode::kConflict);
    std::optional<AppendConflict> conflict;
    ASSERT_OK(bench.catalog.Append("doc", 4, Hash64("text"), "more", &conflict));
    bench.Tokenise();
    EXPECT_TRUE(bench.catalog.ReadyToIngest().empty()) << "in use";
  }
  EXPECT_EQ(bench.catalog.ReadyToIngest().size(), 1U);
  ASSERT_OK(bench.catalog.BeginDelete("doc"));
  EXPECT_ERROR(bench.catalog.BeginDelete("doc"), ErrorCode::kConflict);
  EXPECT_ERROR(bench.catalog.Acquire("doc"), ErrorCode::kConflict);
  bench.catalog.EndDelete(id, {});
  EXPECT_ERROR(bench.catalog.Show("doc"), ErrorCode::kNotFound);
}

TEST(ContextCatalog, IdsAreNotReused) {
  Bench bench;
  ContextId last;
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK(bench.catalog.Create("doc", "text", {}));
    const ContextId id = bench.catalog.Show("doc")->manifest.id;
    EXPECT_GT(id, last);
    last = id;
    ASSERT_OK(bench.catalog.BeginDelete("doc"));
    bench.catalog.EndDelete(id, {});
  }
  // Also not after a restart that sees no context, because ids begin with the time.
  EXPECT_GT(last.value, uint64_t{1500000000} << 20);
}

TEST(ContextCatalog, ShutdownEndsTheWaiting) {
  Bench bench;
  bench.catalog.Shutdown();
  EXPECT_FALSE(bench.catalog.WaitForPiece().has_value());
}

}  // namespace
}  // namespace varve
