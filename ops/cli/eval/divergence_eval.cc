#include "ops/cli/eval/divergence_eval.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include <fmt/format.h>

#include "kernels/thread_team.h"

namespace varve::cli {
namespace {

constexpr int64_t kFirstScored = 256;  // until then little is older than the window
constexpr int64_t kBlockTokens = KvPolicy().page_tokens;
constexpr int64_t kMaxStaticPrefix = 8192;
constexpr int64_t kMaxStaticScored = 2048;

// log(sum of exp) of a row, in double: differences of KL of 1e-6 must mean something.
double LogSumExp(std::span<const float> logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(logit - highest);
  }
  return highest + std::log(sum);
}

struct Position {
  double kl = 0;
  double nll_delta = 0;
  bool same_top = false;
};

// What exact KV predicts at the positions of a block: all candidates are compared with it.
struct Expected {
  std::vector<float> logits;  // [positions, vocab]
  std::vector<float> p;       // [positions, vocab]: what they say
  std::vector<double> lse;    // [positions]
};

// `next`: the token that the text goes on with; negative if it is not known.
Position Compare(const Expected& expected, size_t row, std::span<const float> other, int32_t next) {
  const auto exact = std::span(expected.logits).subspan(row * other.size(), other.size());
  const float* p = expected.p.data() + row * other.size();
  const double other_lse = LogSumExp(other);
  const double lse_delta = other_lse - expected.lse[row];
  Position position;
  for (size_t i = 0; i < exact.size(); ++i) {
    position.kl += p[i] * (static_cast<double>(exact[i]) - other[i] + lse_delta);
  }
  position.kl = std::max(position.kl, 0.0);
  position.same_top = std::max_element(exact.begin(), exact.end()) - exact.begin() ==
                      std::max_element(other.begin(), other.end()) - other.begin();
  if (next >= 0) {
    const auto token = static_cast<size_t>(next);
    position.nll_delta = lse_delta - (static_cast<double>(other[token]) - exact[token]);
  }
  return position;
}

// The sequences of one text, each beginning as a context does.
Result<std::vector<std::vector<int32_t>>> CutText(const EvalOptions& options,
                                                  const LabText& text,
                                                  const TextModel& text_model) {
  VARVE_TRY(const std::vector<int32_t> tokens, text_model.EncodeDocument(text.bytes, false));
  const std::optional<int32_t> bos = text_model.context_bos_id();
  const int64_t own = options.tokens - (bos ? 1 : 0);
  if (static_cast<int64_t>(tokens.size()) < options.sequences * own) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("'{}' has {} tokens; {} sequences of {} need {}. Give a longer text "
                             "or a smaller --tokens or --sequences.",
                             text.name,
                             tokens.size(),
                             options.sequences,
                             options.tokens,
                             options.sequences * own)};
  }
  std::vector<std::vector<int32_t>> sequences;
  for (int64_t i = 0; i < options.sequences; ++i) {
    std::vector<int32_t>& sequence = sequences.emplace_back();
    if (bos) {
      sequence.push_back(*bos);
    }
    sequence.insert(sequence.end(), tokens.begin() + i * own, tokens.begin() + (i + 1) * own);
  }
  return sequences;
}

// The steps in which a sequence is computed: tokens of each. Predictions are compared in those that
// end behind first_scored.
struct Schedule {
  std::vector<int64_t> steps;
  int64_t first_scored = 0;
};

Schedule PseudoDecode(int64_t tokens) {
  Schedule schedule{.steps = {}, .first_scored = kFirstScored};
  for (int64_t first = 0; first < tokens; first += kBlockTokens) {
    schedule.steps.push_back(std::min(kBlockTokens, tokens - first));
  }
  return schedule;
}

// Two steps, each at once: their size is bounded because the buffers of a step are.
Schedule Static(int64_t tokens) {
  const int64_t prefix = std::min(tokens * 2 / 3, kMaxStaticPrefix) / kBlockTokens * kBlockTokens;
  return {.steps = {prefix, std::min(tokens - prefix, kMaxStaticScored)}, .first_scored = prefix};
}

using Observed = std::vector<std::vector<Position>>;  // [candidates][positions]

class Divergence {
 public:
  // Exact KV in `exact`, the candidates in `model`, which may be the same.
  Divergence(LabModel* exact,
             LabModel* model,
             const std::vector<Candidate>& candidates,
             int threads)
      : exact_(exact), model_(model), candidates_(candidates), team_(threads) {}

  // One sequence, by exact KV and by every candidate.
  Result<void> Run(const std::vector<int32_t>& tokens,
                   const Schedule& schedule,
                   LabProgress* progress,
                   Observed* observed) {
    std::vector<SequenceId> sequences;
    VARVE_TRY(const SequenceId exact_sequence, exact_->OpenSequence({.policy = ExactKv()}));
    for (const Candidate& candidate : candidates_) {
      VARVE_TRY(const SequenceId sequence, model_->OpenSequence({.policy = candidate.Kv()}));
      sequences.push_back(sequence);
    }
    int64_t first = 0;
    for (const int64_t count : schedule.steps) {
      const bool is_scored = first + count > schedule.first_scored;
      const auto block =
          std::span(tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
      VARVE_TRY(std::vector<float> logits, exact_->Step(exact_sequence, first, block, is_scored));
      const Expected expected = Expect(std::move(logits));
      for (size_t i = 0; i < sequences.size(); ++i) {
        VARVE_TRY(const std::vector<float> seen,
                  model_->Step(sequences[i], first, block, is_scored));
        if (is_scored) {
          Score(tokens, first, schedule.first_scored, expected, seen, &(*observed)[i]);
        }
        progress->Advance();
      }
      first += count;
    }
    VARVE_RETURN_IF_ERROR(exact_->CloseSequence(exact_sequence));
    for (const SequenceId sequence : sequences) {
      VARVE_RETURN_IF_ERROR(model_->CloseSequence(sequence));
    }
    return {};
  }

 private:
  size_t vocab() const { return static_cast<size_t>(model_->config().vocab_size); }

  Expected Expect(std::vector<float> logits) {
    Expected expected{std::move(logits), {}, {}};
    expected.p.resize(expected.logits.size());
    expected.lse.resize(expected.logits.size() / vocab());
    team_.ParallelFor(expected.lse.size(), [&](size_t row, int /*thread*/) {
      const auto exact = std::span(expected.logits).subspan(row * vocab(), vocab());
      expected.lse[row] = LogSumExp(exact);
      for (size_t i = 0; i < exact.size(); ++i) {
        expected.p[row * vocab() + i] = std::exp(static_cast<float>(exact[i] - expected.lse[row]));
      }
    });
    return expected;
  }

  void Score(std::span<const int32_t> tokens,
             int64_t first,
             int64_t first_scored,
             const Expected& expected,
             std::span<const float> seen,
             std::vector<Position>* positions) {
    const auto skipped = static_cast<size_t>(std::max<int64_t>(first_scored - first, 0));
    const size_t begin = positions->size();
    positions->resize(begin + expected.lse.size() - skipped);
    team_.ParallelFor(positions->size() - begin, [&](size_t i, int /*thread*/) {
      const size_t row = skipped + i;
      const size_t next = static_cast<size_t>(first) + row + 1;
      (*positions)[begin + i] = Compare(expected,
                                        row,
                                        seen.subspan(row * vocab(), vocab()),
                                        next < tokens.size() ? tokens[next] : -1);
    });
  }

  LabModel* const exact_;
  LabModel* const model_;
  const std::vector<Candidate>& candidates_;
  ThreadTeam team_;
};

// Means and percentiles of the positions; only the mean KL of the static way stands in tables.
void AddFigures(bool is_static, const std::vector<Position>& positions, EvalRow* row) {
  std::vector<double> kl;
  double kl_sum = 0;
  double nll_sum = 0;
  double same = 0;
  for (const Position& position : positions) {
    kl.push_back(position.kl);
    kl_sum += position.kl;
    nll_sum += position.nll_delta;
    same += position.same_top ? 1 : 0;
  }
  const auto count = static_cast<double>(positions.size());
  std::sort(kl.begin(), kl.end());
  const std::string prefix = is_static ? "static_" : "";
  row->Add(prefix + "kl_mean", kl_sum / count);
  const auto add = [&](const std::string& name, double value) {
    row->figures.push_back({prefix + name, value, is_static});
  };
  add("kl_p999", kl[static_cast<size_t>(0.999 * (count - 1))]);
  add("top1", same / count);
  add("nll_delta", nll_sum / count);
  row->AddDetail(prefix + "positions", count);
}

}  // namespace

Result<std::vector<std::vector<int32_t>>> DivergenceSequences(const EvalOptions& options,
                                                              const std::vector<LabText>& texts,
                                                              const TextModel& text_model,
                                                              int64_t max_positions) {
  if (options.tokens <= kFirstScored || options.sequences < 1) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("there must be a sequence and more than {} tokens in it: the first "
                             "ones are not scored",
                             kFirstScored)};
  }
  if (max_positions < options.tokens) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format(
            "--tokens {} is more than the model's {} positions", options.tokens, max_positions)};
  }
  std::vector<std::vector<int32_t>> sequences;
  for (const LabText& text : texts) {
    VARVE_TRY(const auto of_text, CutText(options, text, text_model));
    sequences.insert(sequences.end(), of_text.begin(), of_text.end());
  }
  return sequences;
}

int64_t DivergenceStepTokens(const EvalOptions& options) {
  const Schedule schedule = Static(options.tokens);
  return std::max({LabModel::kStepTokens, schedule.steps[0], schedule.steps[1]});
}

namespace {

Result<std::vector<EvalRow>> Measure(const EvalOptions& options,
                                     const std::vector<std::vector<int32_t>>& sequences,
                                     const std::vector<Candidate>& candidates,
                                     LabModel* exact,
                                     LabModel* model,
                                     LabProgress* progress) {
  Divergence divergence(exact, model, candidates, options.threads);
  std::vector<Schedule> schedules = {PseudoDecode(options.tokens)};
  if (options.with_static) {
    schedules.push_back(Static(options.tokens));
  }
  std::vector<Observed> observed(schedules.size(), Observed(candidates.size()));
  size_t steps = 0;
  for (const Schedule& schedule : schedules) {
    steps += schedule.steps.size();
  }
  progress->Begin(fmt::format("divergence, {} x{:g}", model->name(), model->outliers()),
                  static_cast<int64_t>(sequences.size() * steps * candidates.size()));
  for (const std::vector<int32_t>& tokens : sequences) {
    for (size_t i = 0; i < schedules.size(); ++i) {
      VARVE_RETURN_IF_ERROR(divergence.Run(tokens, schedules[i], progress, &observed[i]));
    }
  }
  std::vector<EvalRow> rows;
  for (size_t i = 0; i < candidates.size(); ++i) {
    EvalRow& row =
        rows.emplace_back(candidates[i].Row("quality", model->name(), model->outliers()));
    AddFigures(false, observed[0][i], &row);
    if (options.with_static) {
      AddFigures(true, observed[1][i], &row);
    }
  }
  return rows;
}

}  // namespace

Result<std::vector<EvalRow>> MeasureDivergence(const EvalOptions& options,
                                               const std::vector<std::vector<int32_t>>& sequences,
                                               const std::vector<Candidate>& candidates,
                                               LabModel* model,
                                               LabProgress* progress) {
  return Measure(options, sequences, candidates, model, model, progress);
}

Result<std::vector<EvalRow>> MeasureWeights(const EvalOptions& options,
                                            const std::vector<std::vector<int32_t>>& sequences,
                                            LabModel* stored,
                                            LabModel* model,
                                            LabProgress* progress) {
  VARVE_TRY(const Codec* codec, FindCodec(kExactCodec));
  const RunShape page{.num_kv_heads = model->config().num_kv_heads,
                      .head_dim = model->config().head_dim,
                      .token_capacity = KvPolicy().page_tokens};
  const Candidate exact{.codec = codec, .policy = {}, .bpe = codec->BitsPerValue(page)};
  VARVE_TRY(std::vector<EvalRow> rows,
            Measure(options, sequences, {exact}, stored, model, progress));
  rows[0].codec = "weights " + options.weights;
  return rows;
}

}  // namespace varve::cli
