#include "worker/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/selective_attention.h"

namespace varve {
namespace {

constexpr float kNoMass = -std::numeric_limits<float>::infinity();
constexpr size_t kMatrixO = 0;
constexpr size_t kMatrixLse = 1;
constexpr size_t kMatrixMoments = 2;

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

// Rows without a page, or whose read failed, may hold anything.
void ClearEmptyRows(const AttendParams& params) {
  const auto head_dim = static_cast<size_t>(params.head_dim);
  const size_t rows = params.positions.size() * static_cast<size_t>(params.num_qo_heads);
  for (size_t i = 0; i < rows; ++i) {
    if (params.lse[i] == kNoMass) {
      std::fill_n(params.o + i * head_dim, head_dim, 0.0F);
    }
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
  const bool observes_mass = part.observes_mass && !part.is_selective;
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
    params.lse_per_view = observes_mass ? rank.page_mass.NextViews(cursor->pages()) : nullptr;
    const RankSpan span(rank, "kernels/attend");
    Attend(params, rank.scratch, rank.team);
  }
  if (observes_mass) {
    rank.page_mass.Show(rank.store, part.work->sequence, layer, {lse, part.num_tokens * qo_heads});
  }
  if (part.is_selective) {
    ClearEmptyRows(params);
    const RankSpan span(rank, "worker/selective_attention");
    VARVE_RETURN_IF_ERROR(AttendSelectively(rank, layer, part, params));
  }
  if (rank.communicator.size() == 1) {
    // There is no merge that would turn "no mass" into zeros: a failed read may leave rows without
    // a page.
    ClearEmptyRows(params);
  }
  return {};
}

// The error of the selective parts' attention over the rank's heads, of which rows(token) gives the
// states and moments of all ranks and merged(token) their merge.
template <class States, class Merged>
void StateErrors(Rank& rank, int32_t layer, size_t num_heads, States&& states, Merged&& merged) {
  if (rank.config.layers[static_cast<size_t>(layer)].window != 0) {
    return;
  }
  for (const Batch::Part& part : rank.batch.parts) {
    if (!part.is_selective || rank.errors[part.index] || rank.StoresOnly(part, layer)) {
      continue;
    }
    for (size_t token = part.first_token; token < part.first_token + part.num_tokens; ++token) {
      StateError(rank, part, states(token), num_heads, merged(token));
    }
  }
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

// Of what a rank sends moments of, and did not attend to selectively.
void ClearExactMoments(Rank& rank, int32_t layer) {
  for (const Batch::Part& part : rank.batch.parts) {
    if (!part.is_selective || rank.errors[part.index] || rank.StoresOnly(part, layer)) {
      ClearMoments(rank, part);
    }
  }
}

// Whether some part's attention in the layer is selective.
bool StatesErrors(const Rank& rank, int32_t layer) {
  return rank.batch.is_selective && rank.config.layers[static_cast<size_t>(layer)].window == 0;
}

// Of a metered part, in the batch.
size_t LastToken(const Rank& rank, size_t metered) {
  const Batch::Part& part = rank.batch.parts[rank.quality.parts[metered]];
  return part.first_token + part.num_tokens - 1;
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

namespace {

// What is compared and stated where a rank has all heads itself.
void JudgeAlone(Rank& rank, int32_t layer) {
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const auto qo_heads = static_cast<size_t>(rank.config.num_qo_heads);
  const size_t width = qo_heads * head_dim;
  RankMoments own;
  StateErrors(
      rank,
      layer,
      qo_heads,
      [&](size_t token) {
        own = {rank.o.data() + token * width,
               rank.lse.data() + token * qo_heads,
               rank.selective.moments.data() + token * qo_heads * MomentFloats(head_dim)};
        return std::span<const RankMoments>(&own, 1);
      },
      [&](size_t token) { return rank.o.data() + token * width; });
  for (size_t i = 0; i < rank.quality.parts.size(); ++i) {
    const MeteredState state{rank.quality.o.data() + i * width,
                             rank.quality.masses.data() + i * qo_heads * 2};
    CompareWithServed(rank, i, {&state, 1}, qo_heads, rank.o.data() + LastToken(rank, i) * width);
  }
}

void JudgeMerged(Rank& rank, int32_t layer, size_t first_metered_matrix) {
  const auto num_ranks = static_cast<size_t>(rank.communicator.size());
  const size_t width = rank.heads.count * static_cast<size_t>(rank.config.head_dim);
  const auto row = [&](size_t matrix, size_t r, size_t index) {
    const ReceivedRows& rows = rank.received[matrix * num_ranks + r];
    return rows.data + index * rows.stride;
  };
  if (StatesErrors(rank, layer)) {
    RankMoments ranks[kMaxStates];
    StateErrors(
        rank,
        layer,
        rank.heads.count,
        [&](size_t token) {
          for (size_t r = 0; r < num_ranks; ++r) {
            ranks[r] = {
                row(kMatrixO, r, token), row(kMatrixLse, r, token), row(kMatrixMoments, r, token)};
          }
          return std::span<const RankMoments>(ranks, num_ranks);
        },
        [&](size_t token) { return rank.merged.data() + token * width; });
  }
  for (size_t i = 0; i < rank.quality.parts.size(); ++i) {
    MeteredState states[kMaxStates];
    for (size_t r = 0; r < num_ranks; ++r) {
      states[r] = {row(first_metered_matrix, r, i), row(first_metered_matrix + 1, r, i)};
    }
    CompareWithServed(rank,
                      i,
                      {states, num_ranks},
                      rank.heads.count,
                      rank.merged.data() + LastToken(rank, i) * width);
  }
}

}  // namespace

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
  MeterLayer(rank, layer);
  if (rank.communicator.size() == 1) {
    output = {.data = rank.o.data(), .stride = qo_heads * head_dim};
    JudgeAlone(rank, layer);
    co_return;
  }
  // 2. Each rank gets all ranks' states of its own heads, and what is needed to judge them.
  SentColumns sent[kMaxSentMatrices];
  size_t num_sent = 0;
  const auto send =
      [&](const float* data, size_t rows, size_t stride, std::span<const size_t> widths) {
        sent[num_sent++] = {.data = data, .rows = rows, .stride = stride, .widths = widths};
      };
  const size_t num_tokens = rank.num_tokens();
  send(rank.o.data(), num_tokens, qo_heads * head_dim, rank.head_widths);
  send(rank.lse.data(), num_tokens, qo_heads, rank.head_counts);
  if (StatesErrors(rank, layer)) {
    ClearExactMoments(rank, layer);
    send(rank.selective.moments.data(),
         num_tokens,
         qo_heads * MomentFloats(head_dim),
         rank.moment_widths);
  }
  const size_t first_metered = num_sent;
  if (const size_t metered = rank.quality.parts.size(); metered > 0) {
    send(rank.quality.o.data(), metered, qo_heads * head_dim, rank.head_widths);
    send(rank.quality.masses.data(), metered, qo_heads * 2, rank.mass_widths);
  }
  co_await rank.communicator.AllToAll(
      rank.stream,
      rank.NextTag(),
      std::span(sent).first(num_sent),
      std::span(rank.received).first(num_sent * static_cast<size_t>(rank.communicator.size())));
  // 3. And merges and judges them.
  MergeOwnHeads(rank);
  JudgeMerged(rank, layer, first_metered);
  output = {.data = rank.merged.data(), .stride = rank.heads.count * head_dim};
}

}  // namespace varve
