#include "worker/logits.h"

#include <algorithm>

namespace varve {
namespace {

// Which tokens of the batch, in order, and how many of them each rank holds.
void ListLogitTokens(Rank& rank) {
  rank.logit_tokens.clear();
  for (const Batch::Part& part : rank.batch.parts) {
    const size_t end = part.first_token + part.num_tokens;
    size_t first = end;
    if (part.work->return_all_logits) {
      first = part.first_token;
    } else if (part.work->sample) {
      first = end - 1;
    }
    for (size_t token = first; token < end; ++token) {
      rank.logit_tokens.push_back(token);
    }
  }
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  auto from = rank.logit_tokens.begin();
  for (size_t r = 0; r < rank.logit_row_widths.size(); ++r) {
    const size_t end_token = PartOf(rank.batch.token_counts, r).end();
    const auto to = std::lower_bound(from, rank.logit_tokens.end(), end_token);
    rank.logit_row_widths[r] = static_cast<size_t>(to - from) * hidden;
    from = to;
  }
}

// The wanted rows among the own tokens, normalised, close together in rank.x.
void NormaliseWantedRows(Rank& rank) {
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  const Range floats = PartOf(rank.logit_row_widths, static_cast<size_t>(rank.communicator.rank()));
  const VectorView& weight = rank.weights.final_norm;
  for (size_t row = floats.begin / hidden; row < floats.end() / hidden; ++row) {
    const size_t own = rank.logit_tokens[row] - rank.batch.own_tokens.begin;
    RmsNorm(rank.skip.data() + own * hidden,
            hidden,
            1,
            hidden,
            weight.data,
            weight.dtype,
            rank.config.norm_weight_offset,
            rank.config.norm_eps,
            rank.x.data() + row * hidden,
            hidden);
  }
}

// The own columns of the logits of rows [first_row, first_row + num_rows).
void ComputeOwnLogits(Rank& rank, size_t first_row, size_t num_rows) {
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  const auto vocab_size = static_cast<size_t>(rank.config.vocab_size);
  float* own = rank.logits.data() + rank.vocab.begin;
  MatMul(rank.x.data() + first_row * hidden,
         hidden,
         num_rows,
         rank.weights.lm_head.Rows(rank.vocab.begin, rank.vocab.count),
         nullptr,
         DType::kF32,
         own,
         vocab_size,
         rank.team);
  if (rank.config.logit_softcap > 0.0F) {
    for (size_t row = 0; row < num_rows; ++row) {
      SoftcapInPlace(own + row * vocab_size, rank.config.logit_softcap, rank.vocab.count);
    }
  }
}

void SampleSequence(Rank& rank,
                    const Batch::Part& part,
                    std::span<const float> logits,
                    SequenceResult& result) {
  const RankSpan span(rank, "worker/sampler");
  const SequenceWork& work = *part.work;
  const int64_t position = work.first_position + static_cast<int64_t>(part.num_tokens);
  Result<Sample> sample =
      SampleToken(logits, work.sampling, position, work.num_top_logprobs, rank.sampler_scratch);
  if (!sample) {
    rank.FailSequence(part.index, std::move(sample).error());
    return;
  }
  result.sampled = sample->token;
  result.top_logprobs = std::move(sample->top);
}

// Hands the rows [first_row, first_row + num_rows), which lie in rank.logits, to their sequences.
void DeliverRows(Rank& rank, size_t first_row, size_t num_rows, std::span<SequenceResult> results) {
  const auto vocab_size = static_cast<size_t>(rank.config.vocab_size);
  auto part = rank.batch.parts.begin();
  for (size_t row = 0; row < num_rows; ++row) {
    const size_t token = rank.logit_tokens[first_row + row];
    while (token >= part->first_token + part->num_tokens) {
      ++part;
    }
    const std::span<const float> logits = rank.logits.subspan(row * vocab_size, vocab_size);
    SequenceResult& result = results[part->index];
    if (part->work->return_all_logits) {
      result.logits.insert(result.logits.end(), logits.begin(), logits.end());
    }
    if (part->work->sample && token + 1 == part->first_token + part->num_tokens) {
      SampleSequence(rank, *part, logits, result);
    }
  }
}

}  // namespace

Task RunLogits(Rank& rank, std::span<SequenceResult> results) {
  ListLogitTokens(rank);
  const size_t num_rows = rank.logit_tokens.size();
  NormaliseWantedRows(rank);
  const SharedColumns wanted{
      .data = rank.x.data(), .rows = 1, .stride = rank.x.size(), .widths = rank.logit_row_widths};
  co_await rank.communicator.AllGather(rank.stream, rank.NextTag(), wanted);
  for (size_t first = 0; first < num_rows; first += rank.logit_rows) {
    if (first >
        0) {  // the first rank has delivered the rows before, and the buffer may be written again
      co_await rank.communicator.Barrier(rank.stream, rank.NextTag());
    }
    const size_t count = std::min(rank.logit_rows, num_rows - first);
    ComputeOwnLogits(rank, first, count);
    const SharedColumns logits{.data = rank.logits.data(),
                               .rows = count,
                               .stride = static_cast<size_t>(rank.config.vocab_size),
                               .widths = rank.vocab_widths};
    co_await rank.communicator.AllGather(rank.stream, rank.NextTag(), logits);
    if (rank.is_first()) {
      DeliverRows(rank, first, count, results);
    }
  }
}

}  // namespace varve
