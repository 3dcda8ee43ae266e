#include "worker/quality_meter.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attn_state.h"
#include "proto/base/rng.h"
#include "worker/rank.h"

namespace varve {
namespace {

constexpr float kNoMass = -std::numeric_limits<float>::infinity();

bool IsMetered(const Rank& rank, int32_t layer, const Batch::Part& part) {
  if (!part.chooses_pages || rank.config.layers[static_cast<size_t>(layer)].window != 0 ||
      rank.StoresOnly(part, layer)) {
    return false;
  }
  const uint64_t place = Mix64(static_cast<uint64_t>(part.work->first_position)) ^
                         Mix64(part.work->sequence.value + static_cast<uint64_t>(layer) + 1);
  return static_cast<double>(Mix64(place) >> 11) * 0x1.0p-53 < rank.quality.share;
}

Result<void> AttendToAll(Rank& rank, PageCursor& cursor, AttendParams params) {
  while (true) {
    VARVE_TRY(params.views, cursor.Next());
    if (params.views.empty()) {
      return {};
    }
    Attend(params, rank.scratch, rank.team);
  }
}

Result<void> AttendExactly(Rank& rank,
                           int32_t layer,
                           const Batch::Part& part,
                           float* o,
                           float* lse) {
  const size_t token = part.first_token + part.num_tokens - 1;
  const AttendParams params{.num_qo_heads = rank.config.num_qo_heads,
                            .num_kv_heads = rank.config.num_kv_heads,
                            .head_dim = rank.config.head_dim,
                            .sm_scale = rank.config.sm_scale,
                            .logit_softcap = rank.config.attn_softcap,
                            .q = rank.qkv.data() + token * rank.qkv_stride,
                            .q_stride = rank.qkv_stride,
                            .positions = std::span(rank.batch.positions).subspan(token, 1),
                            .o = o,
                            .lse = lse};
  const SequenceId sequence = part.work->sequence;
  const int64_t position = rank.batch.positions[token];
  const auto always = rank.store.Read(sequence, layer, position, position, nullptr, 0);
  VARVE_RETURN_IF_ERROR(AttendToAll(rank, *always, params));
  if (!part.is_selective) {
    return {};
  }
  const auto others =
      rank.store.ReadPages(sequence, layer, rank.store.Selectable(sequence, layer).pages);
  return AttendToAll(rank, *others, params);
}

}  // namespace

void MeterLayer(Rank& rank, int32_t layer) {
  QualityMeter& meter = rank.quality;
  meter.parts.clear();
  if (meter.share <= 0.0) {
    return;
  }
  const auto qo_heads = static_cast<size_t>(rank.config.num_qo_heads);
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  std::vector<float> lse(qo_heads);
  for (size_t i = 0; i < rank.batch.parts.size(); ++i) {
    const Batch::Part& part = rank.batch.parts[i];
    if (!IsMetered(rank, layer, part)) {
      continue;
    }
    const size_t at = meter.parts.size();
    meter.parts.push_back(i);
    meter.o.resize(std::max(meter.o.size(), (at + 1) * qo_heads * head_dim));
    meter.masses.resize(std::max(meter.masses.size(), (at + 1) * qo_heads * 2));
    float* o = meter.o.data() + at * qo_heads * head_dim;
    std::fill_n(o, qo_heads * head_dim, 0.0F);
    std::fill(lse.begin(), lse.end(), kNoMass);
    const bool failed =
        rank.errors[part.index].has_value() || !AttendExactly(rank, layer, part, o, lse.data());
    const float* read = part.is_selective
                            ? rank.selective.read_lse.data() + part.index * qo_heads
                            : rank.lse.data() + (part.first_token + part.num_tokens - 1) * qo_heads;
    for (size_t head = 0; head < qo_heads; ++head) {
      // What is not a number tells every rank that this one has nothing to compare.
      float* masses = meter.masses.data() + (at * qo_heads + head) * 2;
      masses[0] = failed ? std::numeric_limits<float>::quiet_NaN() : lse[head];
      masses[1] = failed ? kNoMass : read[head];
    }
  }
}

void CompareWithServed(Rank& rank,
                       size_t metered,
                       std::span<const MeteredState> states,
                       size_t num_heads,
                       const float* served) {
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const Batch::Part& part = rank.batch.parts[rank.quality.parts[metered]];
  std::vector<float> exact(head_dim);
  for (size_t head = 0; head < num_heads; ++head) {
    std::fill(exact.begin(), exact.end(), 0.0F);
    float all = kNoMass;
    float read = kNoMass;
    bool complete = true;
    for (const MeteredState& state : states) {
      const float lse = state.masses[2 * head];
      complete = complete && !std::isnan(lse);
      if (lse > kNoMass) {
        MergeState(exact.data(), &all, state.o + head * head_dim, lse, static_cast<int>(head_dim));
      }
      read = WeighMerge(read, state.masses[2 * head + 1]).lse;
    }
    if (!complete || all == kNoMass) {
      continue;
    }
    double difference = 0.0;
    double length = 0.0;
    for (size_t d = 0; d < head_dim; ++d) {
      const double off = static_cast<double>(served[head * head_dim + d]) - exact[d];
      difference += off * off;
      length += static_cast<double>(exact[d]) * exact[d];
    }
    if (length > 0.0) {
      rank.quality.samples[part.index].push_back(
          {.error = static_cast<float>(std::sqrt(difference / length)),
           .mass_recall = std::min(1.0F, std::exp(read - all))});
    }
  }
}

}  // namespace varve
