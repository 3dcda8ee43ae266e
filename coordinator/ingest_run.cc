#include "coordinator/ingest_run.h"

#include <utility>

#include <fmt/core.h>

namespace varve {

IngestRun::IngestRun(SequenceId sequence,
                     ContextManifest committed,
                     std::optional<int32_t> bos,
                     int64_t commit_tokens)
    : sequence_(sequence),
      committed_(std::move(committed)),
      bos_(bos),
      commit_tokens_(commit_tokens) {}

Result<void> IngestRun::AddPiece(IngestPiece piece, int64_t max_positions) {
  if (piece.error) {
    return *piece.error;
  }
  if (committed_.num_tokens == 0 && tokens_.empty() && bos_) {
    tokens_.push_back(*bos_);
  }
  tokens_.insert(tokens_.end(), piece.tokens.begin(), piece.tokens.end());
  const int64_t length = committed_.num_tokens + static_cast<int64_t>(tokens_.size());
  if (length > max_positions) {
    return Error{ErrorCode::kContextLength,
                 fmt::format("The text makes the context longer than the model's {} positions.",
                             max_positions)};
  }
  pieces_.push_back(Piece{.end = static_cast<int64_t>(tokens_.size()),
                          .text = std::move(piece.text),
                          .text_hash_after = piece.text_hash_after});
  return {};
}

int64_t IngestRun::NextCommit() const {
  int64_t next = 0;
  for (const Piece& piece : pieces_) {
    if (stop_early_ && next >= num_computed_) {
      break;
    }
    // The first piece is taken whole, however long it is.
    if (piece.end > commit_tokens_ && next > 0 && next >= num_computed_) {
      break;
    }
    next = piece.end;
  }
  return next;
}

Runnable IngestRun::AsRunnable() const {
  return Runnable{
      .sequence = sequence_,
      .position = committed_.num_tokens + num_computed_,
      .pending = std::span(tokens_).subspan(static_cast<size_t>(num_computed_),
                                            static_cast<size_t>(NextCommit() - num_computed_))};
}

ContextManifest IngestRun::NextManifest(int64_t now_unix_s) const {
  ContextManifest manifest = committed_;
  ++manifest.version;
  manifest.tail = {};  // a fork's first own one
  manifest.num_tokens += num_computed_;
  for (const Piece& piece : pieces_) {
    if (piece.end > num_computed_) {
      break;
    }
    manifest.text_bytes += piece.text.size();
    manifest.text_hash = piece.text_hash_after;
  }
  manifest.updated_unix_s = now_unix_s;
  return manifest;
}

ContextAppend IngestRun::NextAppend() const {
  ContextAppend append;
  append.tokens.assign(tokens_.begin(), tokens_.begin() + num_computed_);
  for (const Piece& piece : pieces_) {
    if (piece.end > num_computed_) {
      break;
    }
    append.text += piece.text;
  }
  return append;
}

void IngestRun::Committed(const ContextManifest& manifest) {
  while (!pieces_.empty() && pieces_.front().end <= num_computed_) {
    pieces_.pop_front();
  }
  for (Piece& piece : pieces_) {
    piece.end -= num_computed_;
  }
  tokens_.erase(tokens_.begin(), tokens_.begin() + num_computed_);
  num_computed_ = 0;
  committed_ = manifest;
}

}  // namespace varve
