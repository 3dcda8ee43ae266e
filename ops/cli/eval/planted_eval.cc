#include "ops/cli/eval/planted_eval.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>

#include <fmt/format.h>

#include "kernels/attend.h"
#include "kernels/thread_team.h"

#include "ops/cli/eval/normal.h"
#include "ops/cli/eval/round_trip.h"

namespace varve::cli {
namespace {

constexpr size_t kHeadDim = 128;
constexpr size_t kPageTokens = 128;
constexpr size_t kPageFloats = kHeadDim * kPageTokens;
constexpr size_t kChunkPages = 64;
constexpr size_t kQueries = 16;  // of each length
constexpr size_t kDecoys = 8;    // of each query
constexpr size_t kOutlierChannels = 4;
constexpr size_t kSelectedPages = 16;
constexpr double kDeviation = 2;    // of the scores of ordinary tokens
constexpr double kDecoyMargin = 2;  // below the needle
constexpr int64_t kFewestTokens = static_cast<int64_t>(kPageTokens) * 256;
constexpr float kNoMass = -std::numeric_limits<float>::infinity();

// A token whose score for one query is given.
struct Plant {
  size_t token = 0;  // in its page
  size_t query = 0;  // over all lengths
  double score = 0;
};

// What is attended: made page by page, the same page for the same seed.
class Haystack {
 public:
  Haystack(std::vector<int64_t> lengths, double outliers, uint64_t seed)
      : lengths_(std::move(lengths)), seed_(seed), scale_(kHeadDim, 1.0F), mean_(kHeadDim, 0.0F) {
    Rng rng(seed);
    for (size_t i = 0; i < kOutlierChannels; ++i) {
      const size_t channel = i * (kHeadDim / kOutlierChannels) + rng.Below(8);
      scale_[channel] = static_cast<float>(outliers);
      mean_[channel] = static_cast<float>((i % 2 == 0 ? 1 : -1) * (outliers - 1));
    }
    directions_.resize(num_queries() * kHeadDim);
    FillNormal(&rng, directions_);
    for (size_t query = 0; query < num_queries(); ++query) {
      float* u = directions_.data() + query * kHeadDim;
      const double norm = std::sqrt(std::inner_product(u, u + kHeadDim, u, 0.0));
      std::transform(u, u + kHeadDim, u, [norm](float x) { return static_cast<float>(x / norm); });
      PlantFor(query, &rng);
    }
  }

  size_t num_queries() const { return lengths_.size() * kQueries; }
  size_t num_pages() const { return static_cast<size_t>(lengths_.back()) / kPageTokens; }
  size_t pages_of(size_t query) const {
    return static_cast<size_t>(lengths_[query / kQueries]) / kPageTokens;
  }
  size_t needle_page(size_t query) const { return needle_pages_[query]; }

  // [num_queries, head_dim]
  std::vector<float> Queries() const {
    std::vector<float> q(directions_.size());
    for (size_t i = 0; i < q.size(); ++i) {
      q[i] = static_cast<float>(kDeviation * directions_[i] / scale_[i % kHeadDim]);
    }
    return q;
  }

  // Keys, then values, each [page_tokens, head_dim]: a run of the exact codec.
  void MakePage(size_t page, float* run) const {
    Rng rng(seed_, page + 1);
    FillNormal(&rng, {run, 2 * kPageFloats});
    const auto planted = plants_.find(page);
    if (planted != plants_.end()) {
      for (const Plant& plant : planted->second) {
        // Along the query, and nothing else: the shortest way to that score.
        const float* u = directions_.data() + plant.query * kHeadDim;
        float* z = run + plant.token * kHeadDim;
        const double missing =
            plant.score / kDeviation - std::inner_product(u, u + kHeadDim, z, 0.0);
        for (size_t i = 0; i < kHeadDim; ++i) {
          z[i] += static_cast<float>(missing * u[i]);
        }
      }
    }
    for (size_t i = 0; i < kPageFloats; ++i) {
      run[i] = run[i] * scale_[i % kHeadDim] + mean_[i % kHeadDim];
      run[kPageFloats + i] *= scale_[i % kHeadDim];
    }
  }

 private:
  // The needle and the decoys of a query, in pages that hold no other of its tokens.
  void PlantFor(size_t query, Rng* rng) {
    const double needle =
        std::log(static_cast<double>(lengths_[query / kQueries])) + kDeviation * kDeviation / 2;
    for (size_t i = 0; i <= kDecoys;) {
      const size_t page = rng->Below(pages_of(query));
      const size_t token = rng->Below(kPageTokens);
      std::vector<Plant>& planted = plants_[page];
      const bool is_taken = std::any_of(planted.begin(), planted.end(), [&](const Plant& plant) {
        return plant.query == query || plant.token == token;
      });
      if (is_taken) {
        continue;
      }
      planted.push_back({token, query, i == 0 ? needle : needle - kDecoyMargin});
      if (i == 0) {
        needle_pages_.push_back(page);
      }
      ++i;
    }
  }

  const std::vector<int64_t> lengths_;  // ascending
  const uint64_t seed_;
  std::vector<float> scale_;                               // [head_dim]
  std::vector<float> mean_;                                // [head_dim]; of keys
  std::vector<float> directions_;                          // [num_queries, head_dim], unit
  std::unordered_map<size_t, std::vector<Plant>> plants_;  // by page
  std::vector<size_t> needle_pages_;                       // [num_queries]
};

// What attention made of the haystack as one codec keeps it.
struct Attended {
  std::vector<float> o;         // [num_queries, head_dim]
  std::vector<float> lse;       // [num_queries]
  std::vector<float> page_lse;  // [num_pages, num_queries]
};

class Attention {
 public:
  Attention(const Haystack* haystack, std::vector<int64_t> lengths, int threads)
      : haystack_(haystack), q_(haystack->Queries()), team_(threads) {
    for (const int64_t length : lengths) {
      positions_.push_back(length - 1);
    }
  }

  Attended Start() const {
    return {
        .o = std::vector<float>(q_.size(), 0.0F),
        .lse = std::vector<float>(haystack_->num_queries(), kNoMass),
        .page_lse = std::vector<float>(haystack_->num_pages() * haystack_->num_queries(), kNoMass)};
  }

  // Pages [first, first + count): `runs` as MakePage leaves them. Queries see what is before the
  // end of their length.
  void Attend(size_t first, size_t count, const float* runs, Attended* state) {
    std::vector<KvView> views;
    for (size_t page = 0; page < count; ++page) {
      views.push_back(
          {.codec = CodecId::kF32,
           .encoded = std::as_bytes(std::span(runs + page * 2 * kPageFloats, 2 * kPageFloats)),
           .token_capacity = kPageTokens,
           .num_tokens = kPageTokens,
           .first_position = static_cast<int64_t>((first + page) * kPageTokens)});
    }
    varve::Attend({.num_qo_heads = kQueries,
                   .num_kv_heads = 1,
                   .head_dim = kHeadDim,
                   .q = q_.data(),
                   .q_stride = kQueries * kHeadDim,
                   .positions = positions_,
                   .views = views,
                   .o = state->o.data(),
                   .lse = state->lse.data(),
                   .lse_per_view = state->page_lse.data() + first * haystack_->num_queries()},
                  scratch_,
                  team_);
  }

  ThreadTeam& team() { return team_; }

 private:
  const Haystack* const haystack_;
  const std::vector<float> q_;      // [lengths, kQueries, head_dim]
  std::vector<int64_t> positions_;  // [lengths]
  AttendScratch scratch_;
  ThreadTeam team_;
};

// Softmax mass, by `exact`, of the pages that `ranking` puts first.
double MassOfBest(const Haystack& haystack,
                  const Attended& exact,
                  const Attended& ranking,
                  size_t query) {
  const size_t stride = haystack.num_queries();
  std::vector<size_t> pages(haystack.pages_of(query));
  std::iota(pages.begin(), pages.end(), size_t{0});
  const size_t count = std::min(kSelectedPages, pages.size());
  std::partial_sort(pages.begin(),
                    pages.begin() + static_cast<std::ptrdiff_t>(count),
                    pages.end(),
                    [&](size_t a, size_t b) {
                      return ranking.page_lse[a * stride + query] >
                             ranking.page_lse[b * stride + query];
                    });
  double mass = 0;
  for (size_t i = 0; i < count; ++i) {
    mass += std::exp(exact.page_lse[pages[i] * stride + query] - exact.lse[query]);
  }
  return mass;
}

size_t BestPage(const Haystack& haystack, const Attended& attended, size_t query) {
  const size_t stride = haystack.num_queries();
  size_t best = 0;
  for (size_t page = 1; page < haystack.pages_of(query); ++page) {
    if (attended.page_lse[page * stride + query] > attended.page_lse[best * stride + query]) {
      best = page;
    }
  }
  return best;
}

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
    recall += MassOfBest(haystack, exact, coded, query) / MassOfBest(haystack, exact, exact, query);
    const size_t needle = haystack.needle_page(query);
    found += BestPage(haystack, coded, query) == needle ? 1 : 0;
    const size_t place = needle * haystack.num_queries() + query;
    score_error += std::pow(static_cast<double>(coded.page_lse[place]) - exact.page_lse[place], 2);
  }
  row->Add("output_error", error / kQueries);
  row->Add("mass_recall", recall / kQueries);
  row->Add("needle_argmax", found / kQueries);
  row->Add("score_error", std::sqrt(score_error / kQueries));
}

Result<std::vector<int64_t>> CheckLengths(std::vector<int64_t> lengths) {
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  for (const int64_t length : lengths) {
    const auto page = static_cast<int64_t>(kPageTokens);
    if (length < kFewestTokens || length % page != 0) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--planted-tokens {}: a length is a multiple of {} and at least {}",
                               length,
                               page,
                               kFewestTokens)};
    }
  }
  return lengths;
}

}  // namespace

RunShape PlantedPage() {
  return {.num_kv_heads = 1, .head_dim = kHeadDim, .token_capacity = kPageTokens};
}

Result<std::vector<EvalRow>> MeasurePlanted(const EvalOptions& options,
                                            double outliers,
                                            const std::vector<Candidate>& candidates,
                                            LabProgress* progress) {
  VARVE_TRY(const std::vector<int64_t> lengths, CheckLengths(options.planted_tokens));
  const Haystack haystack(lengths, outliers, options.seed);
  Attention attention(&haystack, lengths, options.threads);
  Attended exact = attention.Start();
  std::vector<Attended> coded(candidates.size(), attention.Start());
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
    for (size_t i = 0; i < candidates.size(); ++i) {
      attention.team().ParallelFor(count, [&](size_t page, int thread) {
        const float* run = runs.data() + page * 2 * kPageFloats;
        float* out = coded_runs.data() + page * 2 * kPageFloats;
        RoundTrip(*candidates[i].codec,
                  PlantedPage(),
                  run,
                  run + kPageFloats,
                  &scratch[static_cast<size_t>(thread)],
                  out,
                  out + kPageFloats);
      });
      attention.Attend(first, count, coded_runs.data(), &coded[i]);
      progress->Advance();
    }
  }
  std::vector<EvalRow> rows;
  for (size_t length = 0; length < lengths.size(); ++length) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      EvalRow& row = rows.emplace_back(candidates[i].Row("planted", "synthetic", outliers));
      row.Add("tokens", static_cast<double>(lengths[length]));
      row.Add("ln_n", std::log(static_cast<double>(lengths[length])));
      AddFigures(haystack, exact, coded[i], length * kQueries, &row);
    }
  }
  return rows;
}

}  // namespace varve::cli
