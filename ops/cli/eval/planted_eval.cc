#include "ops/cli/eval/planted_eval.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <fmt/format.h>

#include "kernels/attend.h"
#include "kernels/thread_team.h"

#include "ops/cli/eval/haystack.h"
#include "ops/cli/eval/round_trip.h"

namespace varve::cli {
namespace {

constexpr size_t kHeadDim = Haystack::kHeadDim;
constexpr size_t kPageTokens = Haystack::kPageTokens;
constexpr size_t kPageFloats = Haystack::kPageFloats;
constexpr size_t kQueries = Haystack::kQueries;
constexpr size_t kChunkPages = 64;
constexpr size_t kSelectedPages = 16;
constexpr int64_t kFewestTokens = static_cast<int64_t>(kPageTokens) * 256;
constexpr float kNoMass = -std::numeric_limits<float>::infinity();

// The mass of a page: by the scores that rank it, and by exact ones.
struct RankedPage {
  float rank = kNoMass;
  float exact = kNoMass;
};

// The pages that one query's scores put first, of those offered so far. Scores are logarithms.
class BestPages {
 public:
  void Offer(size_t page, float rank, float exact) {
    if (rank > best_rank_) {
      best_rank_ = rank;
      best_page_ = page;
    }
    if (count_ < kSelectedPages) {
      pages_[count_++] = {rank, exact};
      std::push_heap(pages_, pages_ + count_, RanksHigher);
    } else if (rank > pages_[0].rank) {
      std::pop_heap(pages_, pages_ + count_, RanksHigher);
      pages_[count_ - 1] = {rank, exact};
      std::push_heap(pages_, pages_ + count_, RanksHigher);
    }
  }

  size_t best_page() const { return best_page_; }
  // Exact softmax mass of these pages; `lse` is that of all tokens.
  double Mass(float lse) const {
    double mass = 0;
    for (size_t i = 0; i < count_; ++i) {
      mass += std::exp(pages_[i].exact - lse);
    }
    return mass;
  }

 private:
  // The heap's front is the lowest.
  static bool RanksHigher(const RankedPage& a, const RankedPage& b) { return a.rank > b.rank; }

  RankedPage pages_[kSelectedPages];
  size_t count_ = 0;
  float best_rank_ = kNoMass;
  size_t best_page_ = 0;
};

// What attention has made so far of the haystack as one codec keeps it. Its size does not depend on
// the number of tokens.
struct Attended {
  explicit Attended(size_t num_queries)
      : o(num_queries * kHeadDim, 0.0F),
        lse(num_queries, kNoMass),
        best(num_queries),
        needle_lse(num_queries, kNoMass) {}

  std::vector<float> o;           // [num_queries, head_dim]
  std::vector<float> lse;         // [num_queries]
  std::vector<BestPages> best;    // [num_queries]
  std::vector<float> needle_lse;  // [num_queries], of the needle's page
  std::vector<float> chunk_lse;   // [pages, active queries], of the chunk attended last
};

class Attention {
 public:
  Attention(const Haystack* haystack, int threads)
      : haystack_(haystack), q_(haystack->Queries()), team_(threads) {
    for (const int64_t length : haystack->lengths()) {
      positions_.push_back(length - 1);
    }
  }

  // Pages [first, first + count): `runs` as MakePage leaves them. Queries see what is before the
  // end of their length.
  void Attend(size_t first, size_t count, const float* runs, Attended* state) {
    const size_t ended = NumEnded(first);
    std::vector<KvView> views;
    for (size_t page = 0; page < count; ++page) {
      views.push_back(
          {.codec = CodecId::kF32,
           .encoded = std::as_bytes(std::span(runs + page * 2 * kPageFloats, 2 * kPageFloats)),
           .token_capacity = kPageTokens,
           .num_tokens = kPageTokens,
           .first_position = static_cast<int64_t>((first + page) * kPageTokens)});
    }
    state->chunk_lse.assign(count * (positions_.size() - ended) * kQueries, kNoMass);
    varve::Attend({.num_qo_heads = kQueries,
                   .num_kv_heads = 1,
                   .head_dim = kHeadDim,
                   .q = q_.data() + ended * kQueries * kHeadDim,
                   .q_stride = kQueries * kHeadDim,
                   .positions = std::span(positions_).subspan(ended),
                   .views = views,
                   .o = state->o.data() + ended * kQueries * kHeadDim,
                   .lse = state->lse.data() + ended * kQueries,
                   .lse_per_view = state->chunk_lse.data()},
                  scratch_,
                  team_);
  }

  // Ranks the pages of the chunk that both have attended over last.
  void Rank(size_t first, size_t count, const Attended& exact, Attended* state) const {
    const size_t first_query = NumEnded(first) * kQueries;
    const size_t active = haystack_->num_queries() - first_query;
    for (size_t i = 0; i < count * active; ++i) {
      const size_t page = first + i / active;
      const size_t query = first_query + i % active;
      if (page < haystack_->pages_of(query)) {
        state->best[query].Offer(page, state->chunk_lse[i], exact.chunk_lse[i]);
        if (page == haystack_->needle_page(query)) {
          state->needle_lse[query] = state->chunk_lse[i];
        }
      }
    }
  }

  ThreadTeam& team() { return team_; }

 private:
  // Lengths that end before this page: nothing more is to be read for their queries.
  size_t NumEnded(size_t page) const {
    const auto& lengths = haystack_->lengths();
    return static_cast<size_t>(
        std::upper_bound(lengths.begin(), lengths.end(), static_cast<int64_t>(page * kPageTokens)) -
        lengths.begin());
  }

  const Haystack* const haystack_;
  const std::vector<float> q_;      // [lengths, kQueries, head_dim]
  std::vector<int64_t> positions_;  // [lengths]
  AttendScratch scratch_;
  ThreadTeam team_;
};

void AddFigures(const Haystack& haystack,
                const Attended& exact,
                const Attended& coded,
                size_t first_query,
                EvalRow* row) {
  double error = 0;
  double recall = 0;
  double found = 0;
  double score_error = 0;
  for (size_t query = first_query; query < first_query + kQueries; ++query) {
    double difference = 0;
    double size = 0;
    for (size_t i = query * kHeadDim; i < (query + 1) * kHeadDim; ++i) {
      difference += std::pow(static_cast<double>(coded.o[i]) - exact.o[i], 2);
      size += std::pow(static_cast<double>(exact.o[i]), 2);
    }
    error += std::sqrt(difference / size);
    recall += coded.best[query].Mass(exact.lse[query]) / exact.best[query].Mass(exact.lse[query]);
    found += coded.best[query].best_page() == haystack.needle_page(query) ? 1 : 0;
    score_error +=
        std::pow(static_cast<double>(coded.needle_lse[query]) - exact.needle_lse[query], 2);
  }
  row->Add("output_error", error / kQueries);
  row->Add("mass_recall", recall / kQueries);
  row->Add("needle_argmax", found / kQueries);
  row->Add("score_error", std::sqrt(score_error / kQueries));
}

// Tables of the codecs that need some: {} for the others.
std::vector<CodecTables> MakeTables(const Haystack& haystack,
                                    const std::vector<Candidate>& candidates,
                                    ThreadTeam* team) {
  std::vector<CodecTables> tables(candidates.size());
  const CalibrationSample sample = haystack.Sample();
  team->ParallelFor(candidates.size(), [&](size_t i, int /*thread*/) {
    if (candidates[i].codec->needs_tables()) {
      tables[i] = candidates[i].codec->Calibrate(sample);
    }
  });
  return tables;
}

}  // namespace

RunShape PlantedPage() {
  return {.num_kv_heads = 1, .head_dim = kHeadDim, .token_capacity = kPageTokens};
}

Result<std::vector<int64_t>> PlantedLengths(const EvalOptions& options) {
  std::vector<int64_t> lengths = options.planted_tokens;
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  for (const int64_t length : lengths) {
    const auto page = static_cast<int64_t>(kPageTokens);
    if (length < kFewestTokens || length > kMostPlantedTokens || length % page != 0) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--planted-tokens {}: a length is a multiple of {}, at least {} and "
                               "at most {}",
                               length,
                               page,
                               kFewestTokens,
                               kMostPlantedTokens)};
    }
  }
  return lengths;
}

Result<std::vector<EvalRow>> MeasurePlanted(const EvalOptions& options,
                                            double outliers,
                                            const std::vector<Candidate>& candidates,
                                            LabProgress* progress) {
  VARVE_TRY(const std::vector<int64_t> lengths, PlantedLengths(options));
  const Haystack haystack(lengths, outliers, options.seed);
  Attention attention(&haystack, options.threads);
  const std::vector<CodecTables> tables = MakeTables(haystack, candidates, &attention.team());
  Attended exact(haystack.num_queries());
  std::vector<Attended> coded(candidates.size(), exact);
  std::vector<float> runs(kChunkPages * 2 * kPageFloats);
  std::vector<float> coded_runs(runs.size());
  std::vector<std::vector<std::byte>> scratch(static_cast<size_t>(attention.team().num_threads()));
  const size_t num_pages = haystack.num_pages();
  const size_t chunks = (num_pages + kChunkPages - 1) / kChunkPages;
  progress->Begin(fmt::format("planted x{:g}", outliers),
                  static_cast<int64_t>(chunks * candidates.size()));
  for (size_t first = 0; first < num_pages; first += kChunkPages) {
    const size_t count = std::min(kChunkPages, num_pages - first);
    attention.team().ParallelFor(count, [&](size_t page, int /*thread*/) {
      haystack.MakePage(first + page, runs.data() + page * 2 * kPageFloats);
    });
    attention.Attend(first, count, runs.data(), &exact);
    attention.Rank(first, count, exact, &exact);
    for (size_t i = 0; i < candidates.size(); ++i) {
      const Codec& codec = *candidates[i].codec;
      attention.team().ParallelFor(count, [&](size_t page, int thread) {
        const float* run = runs.data() + page * 2 * kPageFloats;
        float* out = coded_runs.data() + page * 2 * kPageFloats;
        RoundTrip(codec,
                  PlantedPage(),
                  run,
                  run + kPageFloats,
                  {.tables = codec.needs_tables() ? &tables[i] : nullptr},
                  &scratch[static_cast<size_t>(thread)],
                  out,
                  out + kPageFloats);
      });
      attention.Attend(first, count, coded_runs.data(), &coded[i]);
      attention.Rank(first, count, exact, &coded[i]);
      progress->Advance();
    }
  }
  std::vector<EvalRow> rows;
  for (size_t length = 0; length < lengths.size(); ++length) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      EvalRow& row = rows.emplace_back(candidates[i].Row("planted", "synthetic", outliers));
      row.tables = candidates[i].codec->needs_tables() ? kTablesMade : "";
      row.Add("tokens", static_cast<double>(lengths[length]));
      row.Add("ln_n", std::log(static_cast<double>(lengths[length])));
      AddFigures(haystack, exact, coded[i], length * kQueries, &row);
    }
  }
  return rows;
}

}  // namespace varve::cli
