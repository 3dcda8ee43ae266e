#include "worker/rank.h"

#include <algorithm>

namespace varve {
namespace {

constexpr size_t kFrameBytes = size_t{64} << 10;
// Logits are computed in blocks of rows, so that asking for all of them does not need memory for
// all of them.
constexpr size_t kMaxLogitRows = 64;
constexpr size_t kLogitFloats = size_t{4} << 20;

std::vector<size_t> Scale(std::vector<size_t> counts, size_t factor) {
  for (size_t& count : counts) {
    count *= factor;
  }
  return counts;
}

}  // namespace

Rank::Rank(const RankParts& parts)
    : config(parts.config),
      weights(parts.weights),
      communicator(parts.communicator),
      stream(parts.stream),
      store(parts.store),
      probe(parts.probe),
      team(parts.num_threads),
      frame_arena(kFrameBytes) {
  quality.share = parts.quality_share;
  const auto num_ranks = static_cast<size_t>(communicator.size());
  const auto own = static_cast<size_t>(communicator.rank());
  const auto head_dim = static_cast<size_t>(config.head_dim);
  const auto qo_heads = static_cast<size_t>(config.num_qo_heads);
  const auto kv_heads = static_cast<size_t>(config.num_kv_heads);
  const auto hidden = static_cast<size_t>(config.hidden_size);
  const auto vocab_size = static_cast<size_t>(config.vocab_size);
  const auto max_tokens = static_cast<size_t>(parts.max_step_tokens);
  const auto max_sequences = static_cast<size_t>(parts.max_step_sequences);

  const std::vector<size_t> qkv_head_counts = SplitEvenly(qo_heads + 2 * kv_heads, num_ranks);
  qkv_heads = PartOf(qkv_head_counts, own);
  qkv_widths = Scale(qkv_head_counts, head_dim);
  head_counts = SplitEvenly(qo_heads, num_ranks);
  heads = PartOf(head_counts, own);
  head_widths = Scale(head_counts, head_dim);
  moment_widths = Scale(head_counts, MomentFloats(head_dim));
  mass_widths = Scale(head_counts, 2);
  ffn = PartOf(SplitEvenly(static_cast<size_t>(config.ffn_size), num_ranks), own);
  vocab_widths = SplitEvenly(vocab_size, num_ranks);
  vocab = PartOf(vocab_widths, own);
  qkv_stride = (qo_heads + 2 * kv_heads) * head_dim;

  const size_t max_own_tokens = (max_tokens + num_ranks - 1) / num_ranks;
  logit_rows = std::clamp<size_t>(kLogitFloats / vocab_size, 8, kMaxLogitRows);
  x = communicator.AllocateReplicated(max_tokens * hidden, stream.memory_kind());
  qkv = communicator.AllocateReplicated(max_tokens * qkv_stride, stream.memory_kind());
  logits = communicator.AllocateReplicated(logit_rows * vocab_size, stream.memory_kind());
  skip.resize(max_own_tokens * hidden);
  partial.resize(max_tokens * hidden);
  o.resize(max_tokens * qo_heads * head_dim);
  lse.resize(max_tokens * qo_heads);
  if (num_ranks > 1) {
    summed.resize(max_own_tokens * hidden);
    merged.resize(max_tokens * heads.count * head_dim);
  }
  gate.resize(max_tokens * ffn.count);
  up.resize(max_tokens * ffn.count);
  rope_tables.assign(config.ropes.size(), std::vector<float>(max_tokens * head_dim));
  received.resize(kMaxSentMatrices * num_ranks);
  logit_tokens.reserve(max_tokens);
  logit_row_widths.resize(num_ranks);
  batch.tokens.reserve(max_tokens);
  batch.positions.reserve(max_tokens);
  batch.token_counts.resize(num_ranks);
  batch.row_widths.resize(num_ranks);
  batch.parts.reserve(max_sequences);
  errors.reserve(max_sequences);
  begun.reserve(max_sequences);
  begin_failures.reserve(max_sequences);
  end_failures.reserve(max_sequences);
  failures.reserve(max_sequences);
}

void Rank::FailSequence(size_t work_index, Error error) {
  if (!errors[work_index]) {
    errors[work_index] = std::move(error);
  }
}

}  // namespace varve
