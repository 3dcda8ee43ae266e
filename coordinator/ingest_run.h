// One context being ingested, as the engine sees it: tokens to compute, and where to commit.
//
// A commit happens at the end of a piece: as late as the tokens since the last commit allow, so
// that a killed ingest loses at most `commit_tokens`, and resumes where the text can be cut again.
//
// Threads: the engine's.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/context_catalog.h"
#include "coordinator/scheduler.h"
#include "proto/base/ids.h"
#include "proto/context_manifest.h"

namespace varve {

class IngestRun {
 public:
  // `committed`: the manifest that the sequence continues. `bos` begins a context without tokens.
  IngestRun(SequenceId sequence,
            ContextManifest committed,
            std::optional<int32_t> bos,
            int64_t commit_tokens);

  // kContextLength if the context would pass max_positions; the piece's own error if it has one.
  Result<void> AddPiece(IngestPiece piece, int64_t max_positions);
  // The tokens up to the next commit. They stay valid until the next call that is not const.
  Runnable AsRunnable() const;
  void Computed(int64_t num_tokens) { num_computed_ += num_tokens; }
  // From now on commits at the first end of a piece.
  void StopEarly() { stop_early_ = true; }

  // Everything up to the next commit is computed. Whether to commit is decided by the caller when
  // no piece follows
  // (`at_end` of the known text), because more text may be on its way.
  bool AtBoundary() const { return num_computed_ == NextCommit(); }
  bool AtEnd() const { return num_computed_ == static_cast<int64_t>(tokens_.size()); }
  bool HasUncommitted() const { return !pieces_.empty() && pieces_.front().end <= num_computed_; }
  bool WantsPieces() const { return static_cast<int64_t>(tokens_.size()) <= 2 * commit_tokens_; }

  // What to commit. REQUIRES: AtBoundary() && HasUncommitted().
  ContextManifest NextManifest(int64_t now_unix_s) const;
  ContextAppend NextAppend() const;
  void Committed(const ContextManifest& manifest);

  SequenceId sequence() const { return sequence_; }
  ContextId context() const { return committed_.id; }
  int64_t num_computed() const { return num_computed_; }  // since the last commit
  int64_t num_waiting() const { return static_cast<int64_t>(tokens_.size()) - num_computed_; }

 private:
  struct Piece {
    int64_t end = 0;  // index into tokens_ behind the piece
    std::string text;
    uint64_t text_hash_after = 0;
  };

  int64_t NextCommit() const;

  SequenceId sequence_;
  ContextManifest committed_;
  std::optional<int32_t> bos_;
  int64_t commit_tokens_;
  bool stop_early_ = false;
  std::vector<int32_t> tokens_;  // behind the commit; the first num_computed_ are computed
  int64_t num_computed_ = 0;
  std::deque<Piece> pieces_;  // of tokens_, in order
};

}  // namespace varve
