// The engine's ingests: from tokenised pieces to committed contexts.

#include <algorithm>
#include <utility>

#include "coordinator/engine.h"
#include "coordinator/metrics.h"
#include "coordinator/text_model.h"
#include "proto/base/log.h"

namespace varve {

void Engine::FeedIngests() {
  if (drain_seen_) {
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (failure_) {
      return;
    }
  }
  for (const ContextId context : catalog_->ReadyToIngest()) {
    const auto it = std::find_if(ingests_.begin(), ingests_.end(), [&](const auto& ingest) {
      return ingest->context() == context;
    });
    IngestRun* run = it == ingests_.end() ? nullptr : it->get();
    if (run == nullptr) {
      if (ingests_.size() >= limits_.max_ingests) {
        continue;
      }
      const ContextManifest manifest = catalog_->Manifest(context);
      const SequenceId sequence{++next_sequence_};
      OpenSequenceOptions options;
      options.context = context;
      options.policy = manifest.policy;
      if (const Result<void> opened = workers_->OpenSequence(sequence, options); !opened) {
        SPDLOG_WARN("ingest of '{}': {}", manifest.name, opened.error().ToString());
        catalog_->FailIngest(context, opened.error());
        continue;
      }
      ingests_.push_back(std::make_unique<IngestRun>(
          sequence, manifest, text_model_->context_bos_id(), limits_.commit_tokens));
      run = ingests_.back().get();
    }
    if (!run->WantsPieces()) {
      continue;
    }
    for (IngestPiece& piece : catalog_->TakePieces(context)) {
      const Result<void> added = run->AddPiece(std::move(piece), workers_->model().max_positions);
      if (!added) {
        EndIngest(run, added.error());
        break;
      }
    }
  }
}

void Engine::CommitIngests() {
  for (size_t i = 0; i < ingests_.size();) {
    // A run that ends is removed from ingests_, and the next one takes its place.
    if (AdvanceIngest(ingests_[i].get())) {
      ++i;
    }
  }
}

bool Engine::AdvanceIngest(IngestRun* run) {
  if (!run->AtBoundary()) {
    return true;
  }
  const bool at_end = run->AtEnd();
  const bool last = at_end && !catalog_->HasText(run->context());
  // At the end of what is tokenised, but not of the text: the commit can grow with the next piece.
  if (at_end && !last && !drain_seen_) {
    return true;
  }
  if (run->HasUncommitted() && !CommitIngest(run)) {
    return false;
  }
  const bool finished = drain_seen_ || (last && catalog_->FinishIngest(run->context()));
  if (finished) {
    CloseSequence(run->sequence());
    std::erase_if(ingests_, [&](const auto& ingest) { return ingest.get() == run; });
  }
  return !finished;
}

bool Engine::CommitIngest(IngestRun* run) {
  ContextManifest manifest = run->NextManifest(clock_->UnixTimeS());
  manifest.attributes = catalog_->Manifest(run->context()).attributes;
  if (manifest.num_tokens == 0) {
    EndIngest(run, Error{ErrorCode::kInvalidArgument, "The text has no tokens."});
    return false;
  }
  const Result<void> committed =
      workers_->CommitContext(run->sequence(), manifest, run->NextAppend());
  if (!committed) {
    EndIngest(run, committed.error());
    return false;
  }
  metrics_->CountIngestedTokens(run->num_computed());
  run->Committed(manifest);
  catalog_->RecordCommit(manifest);
  return true;
}

void Engine::EndIngest(IngestRun* run, const Error& error) {
  SPDLOG_WARN("ingest of context {}: {}", run->context().value, error.ToString());
  const ContextId context = run->context();
  CloseSequence(run->sequence());
  std::erase_if(ingests_, [&](const auto& ingest) { return ingest.get() == run; });
  catalog_->FailIngest(context, error);
}

}  // namespace varve
