#include "worker/selective_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attn_state.h"
#include "worker/attention.h"

namespace varve {
namespace {

constexpr float kNoMass = -std::numeric_limits<float>::infinity();
// Tokens that share one choice of pages, fewer where there are very many pages.
constexpr size_t kRowTokens = 32;
constexpr size_t kEstimateFloats = size_t{8} << 20;
// States of pages that are held at once, in floats: beyond that every page is read.
constexpr size_t kHeldFloats = size_t{16} << 20;
// The first sample: a share of the pages, within bounds.
constexpr int64_t kFirstShare = 32;
constexpr int64_t kFewestFirst = 24;
constexpr int64_t kMostFirst = 128;
// How much a sample grows at least and at most before it is judged again.
constexpr double kSlowestGrowth = 1.5;
constexpr double kFastestGrowth = 4.0;
// A page's size is at least this share of what it would be if every head spread its attention
// evenly: what the sketch underestimates keeps a chance.
constexpr float kSmallestShare = 0.25F;
constexpr size_t kMostStatements = 16;
// Logs of shares below it count as none: e^-30 of the largest page.
constexpr float kNegligible = -30.0F;

// The tokens at hand of a part, and where their states are.
struct Rows {
  Rank& rank;
  const Batch::Part& part;
  int32_t layer = 0;
  AttendParams params;     // of these tokens
  size_t first_token = 0;  // of the batch
  size_t num_tokens = 0;
  const SelectablePages& selectable;
  const SelectiveAttention& options;
  const ErrorStatement& statement;

  SelectiveScratch& scratch() const { return rank.selective; }
  size_t head_dim() const { return static_cast<size_t>(params.head_dim); }
  size_t qo_heads() const { return static_cast<size_t>(params.num_qo_heads); }
  size_t count() const { return num_tokens * qo_heads(); }
  size_t num_pages() const { return selectable.pages.size(); }
  float* moments(size_t row) const {
    return rank.selective.moments.data() +
           (first_token * qo_heads() + row) * MomentFloats(head_dim());
  }
};

const ErrorStatement& StatementOf(Rank& rank, double delta) {
  auto& statements = rank.selective.statements;
  const auto found = statements.find(delta);
  if (found != statements.end()) {
    return found->second;
  }
  if (statements.size() >= kMostStatements) {
    statements.clear();
  }
  return statements.emplace(delta, ErrorStatement(delta)).first->second;
}

// A page's size is the length of its shares of all rows' attention: the sum of the variances that
// it leaves in them is least where probabilities go with it.
void SizePages(const Rows& rows) {
  SelectiveScratch& s = rows.scratch();
  const size_t num_pages = rows.num_pages();
  const size_t count = rows.count();
  s.estimates.resize(std::max(s.estimates.size(), num_pages * count));
  rows.rank.store.EstimatePages(
      rows.part.work->sequence,
      rows.layer,
      {rows.params.q, rows.params.q_stride, static_cast<int64_t>(rows.num_tokens)},
      rows.rank.scratch,
      rows.rank.team,
      s.estimates.data());
  const float even = std::sqrt(static_cast<float>(count)) / static_cast<float>(num_pages);
  s.highest.assign(rows.params.lse, rows.params.lse + count);
  for (size_t page = 0; page < num_pages; ++page) {
    for (size_t row = 0; row < count; ++row) {
      s.highest[row] = std::max(s.highest[row], s.estimates[page * count + row]);
    }
  }
  rows.rank.team.ParallelFor(num_pages, [&](size_t page, int /*thread*/) {
    for (size_t row = 0; row < count; ++row) {
      float& estimate = s.estimates[page * count + row];
      const float below = estimate - s.highest[row];
      estimate = below > kNegligible ? std::exp(below) : 0.0F;
    }
  });
  s.totals.resize(count);
  for (size_t row = 0; row < count; ++row) {
    s.totals[row] = std::exp(rows.params.lse[row] - s.highest[row]);
  }
  for (size_t page = 0; page < num_pages; ++page) {
    for (size_t row = 0; row < count; ++row) {
      s.totals[row] += s.estimates[page * count + row];
    }
  }
  for (size_t row = 0; row < count; ++row) {
    // A row whose scores are no numbers decides nothing.
    const bool counts = std::isfinite(s.highest[row]) && std::isfinite(s.totals[row]);
    s.totals[row] = counts ? 1.0F / s.totals[row] : 0.0F;
  }
  s.sizes.resize(num_pages);
  rows.rank.team.ParallelFor(num_pages, [&](size_t page, int /*thread*/) {
    float size = 0.0F;
    for (size_t row = 0; row < count; ++row) {
      const float share = s.estimates[page * count + row] * s.totals[row];
      size += share * share;
    }
    s.sizes[page] = (std::isfinite(size) ? std::sqrt(size) : 0.0F) + kSmallestShare * even;
  });
  if (rows.part.observes_mass) {
    rows.rank.store.ObserveMass(
        rows.part.work->sequence, rows.layer, rows.selectable.pages, s.sizes);
  }
  s.draws.resize(num_pages);
  for (size_t page = 0; page < num_pages; ++page) {
    s.draws[page] = DrawOf(rows.options.seed, rows.layer, rows.selectable.pages[page]);
  }
}

// Reads pages (by index, ascending) and holds their states behind those that are held.
Result<void> HoldPages(const Rows& rows, const std::vector<int64_t>& indices) {
  SelectiveScratch& s = rows.scratch();
  const size_t count = rows.count();
  const size_t slot_floats = count * rows.head_dim();
  std::vector<int64_t> pages;
  for (const int64_t index : indices) {
    pages.push_back(rows.selectable.pages[static_cast<size_t>(index)]);
  }
  const std::unique_ptr<PageCursor> cursor =
      rows.rank.store.ReadPages(rows.part.work->sequence, rows.layer, pages);
  size_t next = 0;  // of indices
  AttendParams params = rows.params;
  while (true) {
    VARVE_TRY(params.views, cursor->Next());
    if (params.views.empty()) {
      break;
    }
    const size_t first = s.held.size();
    s.held_o.resize(std::max(s.held_o.size(), (first + params.views.size()) * slot_floats));
    s.held_lse.resize(std::max(s.held_lse.size(), (first + params.views.size()) * count));
    params.o_per_view = s.held_o.data() + first * slot_floats;
    params.lse_per_view = s.held_lse.data() + first * count;
    Attend(params, rows.rank.scratch, rows.rank.team);
    const std::span<const int64_t> of_views = cursor->pages();
    for (size_t view = 0; view < of_views.size(); ++view) {
      const float* o = params.o_per_view + view * slot_floats;
      const float* lse = params.lse_per_view + view * count;
      if (view > 0 && of_views[view] == of_views[view - 1]) {
        // A page of several runs is one page.
        const size_t slot = s.held.size() - 1;
        for (size_t row = 0; row < count; ++row) {
          MergeState(s.held_o.data() + slot * slot_floats + row * rows.head_dim(),
                     s.held_lse.data() + slot * count + row,
                     o + row * rows.head_dim(),
                     lse[row],
                     rows.params.head_dim);
        }
        continue;
      }
      while (pages[next] != of_views[view]) {
        ++next;  // nothing was kept of it
      }
      const size_t slot = s.held.size();
      if (slot != first + view) {
        std::copy_n(o, slot_floats, s.held_o.data() + slot * slot_floats);
        std::copy_n(lse, count, s.held_lse.data() + slot * count);
      }
      s.slots[static_cast<size_t>(indices[next])] = static_cast<int32_t>(slot);
      s.held.push_back(indices[next++]);
    }
  }
  return {};
}

// Reads what the sampler chose and is not held yet.
Result<void> HoldChosen(const Rows& rows) {
  SelectiveScratch& s = rows.scratch();
  const std::span<const float> probabilities = s.sampler.probabilities();
  std::vector<int64_t> missing;
  for (size_t page = 0; page < probabilities.size(); ++page) {
    if (probabilities[page] > 0.0F && s.slots[page] < 0) {
      missing.push_back(static_cast<int64_t>(page));
    }
  }
  if (!missing.empty()) {
    VARVE_RETURN_IF_ERROR(HoldPages(rows, missing));
  }
  s.chances.clear();
  for (const int64_t page : s.held) {
    s.chances.push_back(probabilities[static_cast<size_t>(page)]);
  }
  return {};
}

// The estimate of each row from what is held; returns the largest error of one.
float EstimateRows(const Rows& rows) {
  SelectiveScratch& s = rows.scratch();
  const size_t head_dim = rows.head_dim();
  s.errors.resize(std::max(s.errors.size(), rows.count()));
  s.of_threads.resize(static_cast<size_t>(rows.rank.team.num_threads()));
  rows.rank.team.ParallelFor(rows.count(), [&](size_t row, int thread) {
    float* o = rows.params.o + row * head_dim;
    std::copy_n(s.sure_o.data() + row * head_dim, head_dim, o);
    rows.params.lse[row] = s.sure_lse[row];
    EstimateFromSample({.lse = s.held_lse.data() + row,
                        .lse_stride = rows.count(),
                        .o = s.held_o.data() + row * head_dim,
                        .o_stride = rows.count() * head_dim,
                        .probabilities = s.chances},
                       head_dim,
                       o,
                       rows.params.lse + row,
                       rows.moments(row),
                       s.of_threads[static_cast<size_t>(thread)]);
    const EstimatedState own{o, rows.params.lse[row], rows.moments(row)};
    s.errors[row] = rows.statement.Of({&own, 1}, o, head_dim).error;
  });
  return *std::max_element(s.errors.begin(),
                           s.errors.begin() + static_cast<ptrdiff_t>(rows.count()));
}

// What lay on the pages that were read, for the part's last token, which is that of the rows.
void NoteReadMass(const Rows& rows) {
  SelectiveScratch& s = rows.scratch();
  const size_t first = rows.count() - rows.qo_heads();
  float* read = s.read_lse.data() + rows.part.index * rows.qo_heads();
  for (size_t head = 0; head < rows.qo_heads(); ++head) {
    read[head] = s.sure_lse[first + head];
    for (size_t slot = 0; slot < s.held.size(); ++slot) {
      read[head] = WeighMerge(read[head], s.held_lse[slot * rows.count() + first + head]).lse;
    }
  }
}

Result<void> AttendAll(const Rows& rows) {
  SelectiveScratch& s = rows.scratch();
  std::copy_n(s.sure_o.data(), rows.count() * rows.head_dim(), rows.params.o);
  std::copy_n(s.sure_lse.data(), rows.count(), rows.params.lse);
  std::fill_n(rows.moments(0), rows.count() * MomentFloats(rows.head_dim()), 0.0F);
  const std::unique_ptr<PageCursor> cursor =
      rows.rank.store.ReadPages(rows.part.work->sequence, rows.layer, rows.selectable.pages);
  AttendParams params = rows.params;
  while (true) {
    VARVE_TRY(params.views, cursor->Next());
    if (params.views.empty()) {
      break;
    }
    Attend(params, rows.rank.scratch, rows.rank.team);
  }
  std::copy_n(rows.params.lse + rows.count() - rows.qo_heads(),
              rows.qo_heads(),
              s.read_lse.data() + rows.part.index * rows.qo_heads());
  return {};
}

// How many pages to read next, where `chosen` left an error of `error`.
int64_t NextCount(int64_t chosen, double error, double epsilon) {
  const double wanted = error / epsilon;
  const double growth = std::clamp(wanted * wanted, kSlowestGrowth, kFastestGrowth);
  return static_cast<int64_t>(std::ceil(static_cast<double>(chosen) * growth));
}

// Returns how many pages were read.
Result<int64_t> AttendRows(const Rows& rows) {
  SelectiveScratch& s = rows.scratch();
  const auto num_pages = static_cast<int64_t>(rows.num_pages());
  const int64_t budget = std::min(num_pages, rows.selectable.budget);
  const auto most_held = static_cast<int64_t>(kHeldFloats / (rows.count() * (rows.head_dim() + 1)));
  s.sure_o.assign(rows.params.o, rows.params.o + rows.count() * rows.head_dim());
  s.sure_lse.assign(rows.params.lse, rows.params.lse + rows.count());
  s.slots.assign(rows.num_pages(), -1);
  s.held.clear();
  SizePages(rows);
  s.sampler.Reset(s.sizes, s.draws);
  int64_t wanted = std::min(budget, std::clamp(num_pages / kFirstShare, kFewestFirst, kMostFirst));
  while (true) {
    s.sampler.Choose(wanted);
    if (s.sampler.num_chosen() == num_pages && num_pages > std::ssize(s.held)) {
      VARVE_RETURN_IF_ERROR(AttendAll(rows));
      return num_pages;
    }
    VARVE_RETURN_IF_ERROR(HoldChosen(rows));
    const double error = EstimateRows(rows);
    NoteReadMass(rows);
    if (error <= rows.options.epsilon || wanted >= budget) {
      return std::ssize(s.held);
    }
    wanted = std::min(budget, NextCount(s.sampler.num_chosen(), error, rows.options.epsilon));
    if (wanted > most_held) {
      wanted = budget == num_pages ? num_pages : most_held;
      if (wanted <= s.sampler.num_chosen()) {
        return std::ssize(s.held);
      }
    }
  }
}

}  // namespace

Result<void> AttendSelectively(Rank& rank,
                               int32_t layer,
                               const Batch::Part& part,
                               const AttendParams& params) {
  ClearMoments(rank, part);
  const SequenceId sequence = part.work->sequence;
  const SelectiveAttention& options = *rank.store.Selective(sequence);
  const SelectablePages selectable = rank.store.Selectable(sequence, layer);
  const auto qo_heads = static_cast<size_t>(params.num_qo_heads);
  std::copy_n(params.lse + (part.num_tokens - 1) * qo_heads,
              qo_heads,
              rank.selective.read_lse.data() + part.index * qo_heads);
  if (selectable.pages.empty()) {
    return {};
  }
  const auto head_dim = static_cast<size_t>(params.head_dim);
  const ErrorStatement& statement = StatementOf(rank, options.delta);
  const size_t row_tokens =
      std::clamp<size_t>(kEstimateFloats / (selectable.pages.size() * qo_heads), 1, kRowTokens);
  PageReads reads;
  for (size_t first = 0; first < part.num_tokens; first += row_tokens) {
    const size_t count = std::min(row_tokens, part.num_tokens - first);
    Rows rows{.rank = rank,
              .part = part,
              .layer = layer,
              .params = params,
              .first_token = part.first_token + first,
              .num_tokens = count,
              .selectable = selectable,
              .options = options,
              .statement = statement};
    rows.params.q += first * params.q_stride;
    rows.params.positions = params.positions.subspan(first, count);
    rows.params.o += first * qo_heads * head_dim;
    rows.params.lse += first * qo_heads;
    rows.params.views = {};
    VARVE_TRY(const int64_t read, AttendRows(rows));
    reads.read += read;
    reads.total += std::ssize(selectable.pages);
  }
  rank.store.NoteReads(sequence, reads);
  return {};
}

void ClearMoments(Rank& rank, const Batch::Part& part) {
  const size_t row_floats = static_cast<size_t>(rank.config.num_qo_heads) *
                            MomentFloats(static_cast<size_t>(rank.config.head_dim));
  std::vector<float>& moments = rank.selective.moments;
  moments.resize(std::max(moments.size(), rank.num_tokens() * row_floats));
  std::fill_n(moments.data() + part.first_token * row_floats, part.num_tokens * row_floats, 0.0F);
}

void StateError(Rank& rank,
                const Batch::Part& part,
                std::span<const RankMoments> ranks,
                size_t num_heads,
                const float* merged) {
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const SequenceId sequence = part.work->sequence;
  const ErrorStatement& statement = StatementOf(rank, rank.store.Selective(sequence)->delta);
  EstimatedState states[kMaxStates];
  PageReads reads;
  for (size_t head = 0; head < num_heads; ++head) {
    for (size_t r = 0; r < ranks.size(); ++r) {
      states[r] = {ranks[r].o + head * head_dim,
                   ranks[r].lse[head],
                   ranks[r].moments + head * MomentFloats(head_dim)};
    }
    const ErrorStatement::Row row =
        statement.Of({states, ranks.size()}, merged + head * head_dim, head_dim);
    reads.error_bound = std::max(reads.error_bound.value_or(0.0F), row.error);
    reads.missed_mass += row.missed;
    ++reads.num_missed_masses;
  }
  rank.store.NoteReads(sequence, reads);
}

}  // namespace varve
