#include "worker/step.h"

#include <algorithm>

#include "worker/forward.h"
#include "worker/logits.h"
#include "worker/rope_table.h"

namespace varve {
namespace {

// Makes room for every sequence, or notes why there is none.
void BeginSequences(Rank& rank, const StepJob& job) {
  const size_t num_work = job.work.size();
  rank.epoch = job.epoch;
  rank.step = job.step;
  rank.exchange = 0;
  rank.errors.assign(num_work, std::nullopt);
  rank.begun.assign(num_work, 0);
  rank.begin_failures.assign(num_work, 0.0F);
  rank.end_failures.assign(num_work, 0.0F);
  rank.failures.assign(num_work, 0.0F);
  rank.quality.samples.assign(num_work, {});
  rank.selective.read_lse.resize(num_work * static_cast<size_t>(rank.config.num_qo_heads));
  for (size_t i = 0; i < num_work; ++i) {
    const SequenceWork& work = *job.work[i];
    Result<void> begun = rank.store.BeginStep(
        work.sequence, work.first_position, static_cast<int32_t>(work.tokens.size()));
    if (begun) {
      rank.begun[i] = 1;
    } else {
      rank.FailSequence(i, std::move(begun).error());
      rank.begin_failures[i] = 1.0F;
    }
  }
}

void Abort(Rank& rank, const StepJob& job, size_t index) {
  if (rank.begun[index] != 0) {
    rank.store.AbortStep(job.work[index]->sequence);
    rank.begun[index] = 0;
  }
}

// The batch of the sequences that began on every rank.
void BuildBatch(Rank& rank, const StepJob& job) {
  Batch& batch = rank.batch;
  batch.parts.clear();
  batch.tokens.clear();
  batch.positions.clear();
  batch.wants_logits = false;
  batch.observes_queries = false;
  batch.is_selective = false;
  for (size_t i = 0; i < job.work.size(); ++i) {
    const SequenceWork& work = *job.work[i];
    if (rank.failures[i] > 0.0F) {
      Abort(rank, job, i);
      continue;
    }
    const bool wants_logits = work.sample || work.return_all_logits;
    const bool observes_queries = rank.store.ObservesQueries(work.sequence);
    const bool is_selective = rank.store.Selective(work.sequence) != nullptr;
    batch.parts.push_back({.work = &work,
                           .index = i,
                           .first_token = batch.tokens.size(),
                           .num_tokens = work.tokens.size(),
                           .wants_logits = wants_logits,
                           .observes_queries = observes_queries,
                           .observes_mass = work.tokens.size() <= PageMass::kDecodeTokensMax &&
                                            rank.store.ObservesMass(work.sequence),
                           .is_selective = is_selective,
                           .chooses_pages = rank.store.SelectedReads(work.sequence).has_value()});
    batch.wants_logits = batch.wants_logits || wants_logits;
    batch.observes_queries = batch.observes_queries || observes_queries;
    batch.is_selective = batch.is_selective || is_selective;
    batch.tokens.insert(batch.tokens.end(), work.tokens.begin(), work.tokens.end());
    for (size_t t = 0; t < work.tokens.size(); ++t) {
      batch.positions.push_back(work.first_position + static_cast<int64_t>(t));
    }
  }
  const size_t num_tokens = batch.tokens.size();
  const auto num_ranks = static_cast<size_t>(rank.communicator.size());
  for (size_t r = 0; r < num_ranks; ++r) {
    batch.token_counts[r] = num_tokens / num_ranks + (r < num_tokens % num_ranks ? 1 : 0);
    batch.row_widths[r] = batch.token_counts[r] * static_cast<size_t>(rank.config.hidden_size);
  }
  batch.own_tokens = PartOf(batch.token_counts, static_cast<size_t>(rank.communicator.rank()));
}

void FillRopeTables(Rank& rank) {
  const auto rotated_heads =
      static_cast<size_t>(rank.config.num_qo_heads + rank.config.num_kv_heads);
  if (Overlap(rank.qkv_heads, 0, rotated_heads).count == 0) {
    return;
  }
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  for (size_t i = 0; i < rank.rope_tables.size(); ++i) {
    ForTokenBlocks(rank, rank.num_tokens(), [&](size_t first, size_t count) {
      FillRopeTable(rank.config.ropes[i],
                    std::span(rank.batch.positions).subspan(first, count),
                    std::span(rank.rope_tables[i]).subspan(first * head_dim, count * head_dim));
    });
  }
}

// The skip connection of the own tokens starts as their embeddings.
void Embed(Rank& rank) {
  const WeightView& table = rank.weights.embedding;
  const size_t row_bytes = table.row_stride * DTypeBytes(table.dtype);
  for (size_t i = 0; i < rank.batch.own_tokens.count; ++i) {
    const auto token = static_cast<size_t>(rank.batch.tokens[rank.batch.own_tokens.begin + i]);
    float* row = rank.skip.data() + i * table.cols;
    Widen(static_cast<const std::byte*>(table.data) + token * row_bytes,
          table.dtype,
          table.cols,
          row);
    if (rank.config.embedding_scale != 1.0F) {
      ScaleInPlace(row, rank.config.embedding_scale, table.cols);
    }
  }
}

void NoteFailures(Rank& rank) {
  const Result<void> exchanges = rank.communicator.Status();
  for (const Batch::Part& part : rank.batch.parts) {
    if (!exchanges) {
      rank.FailSequence(part.index, exchanges.error());
    }
    rank.end_failures[part.index] = rank.errors[part.index] ? 1.0F : 0.0F;
  }
}

// The sequences that succeeded on every rank are longer now; of the others the step is forgotten on
// every rank.
void EndSequences(Rank& rank, const StepJob& job) {
  for (const Batch::Part& part : rank.batch.parts) {
    if (rank.failures[part.index] > 0.0F || !rank.communicator.Status()) {
      Abort(rank, job, part.index);
      continue;
    }
    Result<void> ended = rank.store.EndStep(part.work->sequence);
    if (!ended) {
      rank.FailSequence(part.index, std::move(ended).error());
    }
  }
}

}  // namespace

Task RunStep(Rank& rank, const StepJob& job, std::span<SequenceResult> results) {
  const RankSpan span(rank, "worker/step");
  // 1. Every rank makes room; all learn which sequences have it everywhere.
  BeginSequences(rank, job);
  co_await rank.communicator.AllReduce(rank.stream,
                                       rank.NextTag(),
                                       rank.begin_failures.data(),
                                       job.work.size(),
                                       rank.failures.data());
  BuildBatch(rank, job);
  if (rank.batch.parts.empty()) {
    co_return;
  }
  // 2. The forward pass.
  FillRopeTables(rank);
  Embed(rank);
  for (int32_t layer = 0; layer < rank.config.num_layers; ++layer) {
    co_await RunLayer(rank, layer);
  }
  if (rank.batch.wants_logits) {
    co_await RunLogits(rank, results);
  }
  // 3. All learn which sequences failed anywhere; the others keep their tokens.
  NoteFailures(rank);
  co_await rank.communicator.AllReduce(
      rank.stream, rank.NextTag(), rank.end_failures.data(), job.work.size(), rank.failures.data());
  EndSequences(rank, job);
}

}  // namespace varve
