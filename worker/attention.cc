#include "worker/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace varve {
namespace {

constexpr float kNoMass = -std::numeric_limits<float>::infinity();
constexpr size_t kMatrixO = 0;
constexpr size_t kMatrixLse = 1;

void AppendSequence(Rank& rank, int32_t layer, const Batch::Part& part) {
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const auto qo_heads = static_cast<size_t>(rank.config.num_qo_heads);
  const auto kv_heads = static_cast<size_t>(rank.config.num_kv_heads);
  const float* q = rank.qkv.data() + part.first_token * rank.qkv_stride;
  const float* k = q + qo_heads * head_dim;
  rank.store.Append(part.work->sequence,
                    layer,
                    part.work->first_position,
                    static_cast<int32_t>(part.num_tokens),
                    k,
                    k + kv_heads * head_dim,
                    rank.qkv_stride);
  if (part.observes_queries) {
    rank.store.Observe(part.work->sequence,
                       layer,
                       part.work->first_position,
                       static_cast<int32_t>(part.num_tokens),
                       q,
                       rank.qkv_stride);
  }
}

// The state of the sequence's queries over this rank's pages, into rank.o and rank.lse.
Result<void> AttendSequence(Rank& rank, int32_t layer, const Batch::Part& part) {
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const auto qo_heads = static_cast<size_t>(rank.config.num_qo_heads);
  float* o = rank.o.data() + part.first_token * qo_heads * head_dim;
  float* lse = rank.lse.data() + part.first_token * qo_heads;
  std::fill_n(lse, part.num_tokens * qo_heads, kNoMass);
  if (rank.errors[part.index] || rank.StoresOnly(part, layer)) {
    return {};  // nobody reads the result: no state at all is as good
  }
  AttendParams params{
      .num_qo_heads = rank.config.num_qo_heads,
      .num_kv_heads = rank.config.num_kv_heads,
      .head_dim = rank.config.head_dim,
      .sm_scale = rank.config.sm_scale,
      .logit_softcap = rank.config.attn_softcap,
      .window = rank.config.layers[static_cast<size_t>(layer)].window,
      .q = rank.qkv.data() + part.first_token * rank.qkv_stride,
      .q_stride = rank.qkv_stride,
      .positions = std::span(rank.batch.positions).subspan(part.first_token, part.num_tokens),
      .o = o,
      .lse = lse};
  const int64_t first = part.work->first_position;
  const int64_t last = first + static_cast<int64_t>(part.num_tokens) - 1;
  std::unique_ptr<PageCursor> cursor = [&] {
    const RankSpan span(rank, "kvstore/kv_store");
    return rank.store.Read(part.work->sequence, layer, first, last, params.q, params.q_stride);
  }();
  rank.page_mass.Begin(part.num_tokens * qo_heads);
  for (bool is_zero = false;; is_zero = true) {
    VARVE_TRY(params.views, cursor->Next());
    if (params.views.empty()) {
      break;
    }
    if (!is_zero) {  // most ranks of a short context have no page: they need not even clear their
                     // state
      std::fill_n(o, part.num_tokens * qo_heads * head_dim, 0.0F);
    }
    params.lse_per_view = part.observes_mass ? rank.page_mass.NextViews(cursor->pages()) : nullptr;
    const RankSpan span(rank, "kernels/attend");
    Attend(params, rank.scratch, rank.team);
  }
  if (part.observes_mass) {
    rank.page_mass.Show(rank.store, part.work->sequence, layer, {lse, part.num_tokens * qo_heads});
  }
  if (rank.communicator.size() == 1) {
    // There is no merge that would turn "no mass" into zeros: a failed read may leave rows without
    // a page.
    for (size_t i = 0; i < part.num_tokens * qo_heads; ++i) {
      if (lse[i] == kNoMass) {
        std::fill_n(o + i * head_dim, head_dim, 0.0F);
      }
    }
  }
  return {};
}

void MergeOwnHeads(Rank& rank) {
  const RankSpan span(rank, "kernels/attn_state");
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const auto num_ranks = static_cast<size_t>(rank.communicator.size());
  const size_t width = rank.heads.count * head_dim;
  const size_t num_tokens = rank.heads.count == 0 ? 0 : rank.num_tokens();
  ForTokenBlocks(rank, num_tokens, [&](size_t first, size_t count) {
    StateView states[kMaxStates];
    for (size_t token = first; token < first + count; ++token) {
      for (size_t r = 0; r < num_ranks; ++r) {
        const ReceivedRows& o = rank.received[kMatrixO * num_ranks + r];
        const ReceivedRows& lse = rank.received[kMatrixLse * num_ranks + r];
        states[r] = {.o = o.data + token * o.stride, .lse = lse.data + token * lse.stride};
      }
      MergeStates(
          {states, num_ranks}, rank.heads.count, head_dim, rank.merged.data() + token * width);
    }
  });
}

// A state that is not empty, and its share of the merged one.
struct Share {
  const float* o;
  float weight;
};

// The non-empty states of one head, with weights that add up to one.
size_t WeighStates(std::span<const StateView> states, size_t head, size_t head_dim, Share* shares) {
  float highest = kNoMass;
  for (const StateView& state : states) {
    highest = std::max(highest, state.lse[head]);
  }
  size_t count = 0;
  float total = 0.0F;
  for (const StateView& state : states) {
    if (state.lse[head] != kNoMass) {
      shares[count] = {state.o + head * head_dim, std::exp(state.lse[head] - highest)};
      total += shares[count++].weight;
    }
  }
  for (size_t i = 0; i < count; ++i) {
    shares[i].weight /= total;
  }
  return count;
}

// out = sum of weight * o over [first, first + kLanes) values, kept in registers.
template <size_t kLanes>
void MixValues(std::span<const Share> shares, size_t first, float* out) {
  float sums[kLanes] = {};
  for (const Share& share : shares) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += share.weight * share.o[first + lane];
    }
  }
  std::copy_n(sums, kLanes, out + first);
}

}  // namespace

void MergeStates(std::span<const StateView> states, size_t num_heads, size_t head_dim, float* out) {
  constexpr size_t kBlock = 32;
  VARVE_CHECK(states.size() <= kMaxStates);
  Share shares[kMaxStates];
  for (size_t head = 0; head < num_heads; ++head) {
    const std::span<const Share> own{shares, WeighStates(states, head, head_dim, shares)};
    float* o = out + head * head_dim;
    size_t d = 0;
    for (; d + kBlock <= head_dim; d += kBlock) {
      MixValues<kBlock>(own, d, o);
    }
    for (; d < head_dim; ++d) {
      MixValues<1>(own, d, o);
    }
  }
}

void AppendKv(Rank& rank, int32_t layer) {
  if (rank.probe != nullptr) {
    rank.probe->Observe(layer, rank.batch.positions, rank.qkv.data(), rank.qkv_stride);
  }
  for (const Batch::Part& part : rank.batch.parts) {
    AppendSequence(rank, layer, part);
  }
}

Task RunAttention(Rank& rank, int32_t layer, AttentionOutput& output) {
  const RankSpan span(rank, "worker/attention");
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const auto qo_heads = static_cast<size_t>(rank.config.num_qo_heads);
  // 1. Every rank stores the k and v that it owns and attends over what it holds.
  AppendKv(rank, layer);
  for (const Batch::Part& part : rank.batch.parts) {
    Result<void> attended = AttendSequence(rank, layer, part);
    if (!attended) {
      rank.FailSequence(part.index, std::move(attended).error());
    }
  }
  if (rank.communicator.size() == 1) {
    output = {.data = rank.o.data(), .stride = qo_heads * head_dim};
    co_return;
  }
  // 2. Each rank gets all ranks' states of its own heads.
  SentColumns sent[kMaxSentMatrices];
  sent[kMatrixO] = {.data = rank.o.data(),
                    .rows = rank.num_tokens(),
                    .stride = qo_heads * head_dim,
                    .widths = rank.head_widths};
  sent[kMatrixLse] = {.data = rank.lse.data(),
                      .rows = rank.num_tokens(),
                      .stride = qo_heads,
                      .widths = rank.head_counts};
  co_await rank.communicator.AllToAll(rank.stream, rank.NextTag(), sent, rank.received);
  // 3. And merges them.
  MergeOwnHeads(rank);
  output = {.data = rank.merged.data(), .stride = rank.heads.count * head_dim};
}

}  // namespace varve
