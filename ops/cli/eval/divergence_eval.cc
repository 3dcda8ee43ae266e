#include "ops/cli/eval/divergence_eval.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>

#include <fmt/format.h>

#include "coordinator/text_model.h"
#include "kernels/codec/codec.h"
#include "kernels/thread_team.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/local_worker_group.h"

#include "ops/cli/local_server.h"

namespace varve::cli {
namespace {

constexpr uint64_t kHostBytes = uint64_t{16} << 30;  // a budget, not an allocation
constexpr int64_t kFirstScored = 256;                // until then little is older than the window
constexpr const char* kExact = "f32";

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

// `next`: the token that the text goes on with; negative if it is not known.
Position Compare(std::span<const float> exact, std::span<const float> other, int32_t next) {
  const double exact_lse = LogSumExp(exact);
  const double other_lse = LogSumExp(other);
  Position position;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double log_p = exact[i] - exact_lse;
    position.kl += std::exp(static_cast<float>(log_p)) * (log_p - (other[i] - other_lse));
  }
  position.kl = std::max(position.kl, 0.0);
  position.same_top = std::max_element(exact.begin(), exact.end()) - exact.begin() ==
                      std::max_element(other.begin(), other.end()) - other.begin();
  if (next >= 0) {
    const auto token = static_cast<size_t>(next);
    position.nll_delta = (other_lse - other[token]) - (exact_lse - exact[token]);
  }
  return position;
}

// The sequences of one text, each beginning as a context does.
Result<std::vector<std::vector<int32_t>>> CutText(const EvalOptions& options,
                                                  const std::string& file,
                                                  const TextModel& text_model) {
  VARVE_TRY(const std::string text, ReadFile(file));
  VARVE_TRY(const std::vector<int32_t> tokens, text_model.EncodeDocument(text, false));
  const std::optional<int32_t> bos = text_model.context_bos_id();
  const int64_t own = options.tokens - (bos ? 1 : 0);
  if (static_cast<int64_t>(tokens.size()) < options.sequences * own) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("'{}' has {} tokens; {} sequences of {} need {}. Give a longer text "
                             "or a smaller --tokens or --sequences.",
                             file,
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

// One codec that is compared, and what was seen of it; or the exact one under other weights.
struct Candidate {
  std::string name;
  const Codec* codec = nullptr;
  SequenceId sequence;
  std::vector<Position> positions;
};

class Evaluation {
 public:
  // `stored` is null or the model with its weights as they are stored.
  Evaluation(LocalWorkerGroup* group, LocalWorkerGroup* stored, int num_threads)
      : group_(group), stored_(stored), team_(num_threads) {
    weights_.codec = *FindCodec(kExact);
    weights_.name = "weights " + group->model().weights;
  }

  Result<void> OpenAll(std::vector<Candidate>* candidates) {
    VARVE_TRY(exact_, Open(kExact));
    if (stored_ != nullptr) {
      VARVE_TRY(weights_.sequence, OpenIn(stored_, kExact));
    }
    for (Candidate& candidate : *candidates) {
      VARVE_TRY(candidate.sequence, Open(std::string(candidate.codec->name())));
    }
    return {};
  }
  Result<void> CloseAll(const std::vector<Candidate>& candidates) {
    VARVE_RETURN_IF_ERROR(group_->CloseSequence(exact_));
    if (stored_ != nullptr) {
      VARVE_RETURN_IF_ERROR(stored_->CloseSequence(weights_.sequence));
    }
    for (const Candidate& candidate : candidates) {
      VARVE_RETURN_IF_ERROR(group_->CloseSequence(candidate.sequence));
    }
    return {};
  }

  // Tokens [first, first + count) of the sequence through all caches.
  Result<void> Block(std::span<const int32_t> tokens,
                     int64_t first,
                     int64_t count,
                     std::vector<Candidate>* candidates) {
    VARVE_TRY(const std::vector<float> exact, Logits(group_, exact_, tokens, first, count));
    for (Candidate& candidate : *candidates) {
      VARVE_TRY(const std::vector<float> other,
                Logits(group_, candidate.sequence, tokens, first, count));
      Score(exact, other, tokens, first, count, &candidate);
    }
    if (stored_ != nullptr) {
      VARVE_TRY(const std::vector<float> stored,
                Logits(stored_, weights_.sequence, tokens, first, count));
      Score(stored, exact, tokens, first, count, &weights_);
    }
    return {};
  }

  // The exact codec against that of the stored weights.
  const Candidate& weights() const { return weights_; }

 private:
  void Score(std::span<const float> exact,
             std::span<const float> other,
             std::span<const int32_t> tokens,
             int64_t first,
             int64_t count,
             Candidate* candidate) {
    const size_t vocab = exact.size() / static_cast<size_t>(count);
    std::vector<Position> positions(static_cast<size_t>(count));
    team_.ParallelFor(positions.size(), [&](size_t i, int /*thread*/) {
      const size_t next = static_cast<size_t>(first) + i + 1;
      positions[i] = Compare(exact.subspan(i * vocab, vocab),
                             other.subspan(i * vocab, vocab),
                             next < tokens.size() ? tokens[next] : -1);
    });
    for (size_t i = 0; i < positions.size(); ++i) {
      if (first + static_cast<int64_t>(i) >= kFirstScored) {
        candidate->positions.push_back(positions[i]);
      }
    }
  }

  Result<SequenceId> Open(const std::string& codec) { return OpenIn(group_, codec); }
  Result<SequenceId> OpenIn(LocalWorkerGroup* group, const std::string& codec) {
    const SequenceId sequence{++num_sequences_};
    KvPolicy policy;
    policy.codec = codec;
    policy.exact_codec = kExact;  // so that the codec alone is measured
    VARVE_RETURN_IF_ERROR(group->OpenSequence(sequence, {.policy = policy}));
    return sequence;
  }

  Result<std::vector<float>> Logits(LocalWorkerGroup* group,
                                    SequenceId sequence,
                                    std::span<const int32_t> tokens,
                                    int64_t first,
                                    int64_t count) {
    const auto block = tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    VARVE_TRY(StepResult result,
              group->Step({.epoch = {1},
                           .step = ++step_,
                           .work = {{.sequence = sequence,
                                     .first_position = first,
                                     .tokens = {block.begin(), block.end()},
                                     .return_all_logits = true}}}));
    if (result.results[0].error) {
      return *result.results[0].error;
    }
    return std::move(result.results[0].logits);
  }

  LocalWorkerGroup* const group_;
  LocalWorkerGroup* const stored_;
  Candidate weights_;
  ThreadTeam team_;
  SequenceId exact_;
  uint64_t num_sequences_ = 0;
  uint64_t step_ = 0;
};

DivergenceRow Summarise(const Candidate& candidate, const RunShape& page) {
  DivergenceRow row;
  row.codec = candidate.name;
  row.bpe = candidate.codec->BitsPerValue(page);
  row.positions = static_cast<int64_t>(candidate.positions.size());
  std::vector<double> kl;
  for (const Position& position : candidate.positions) {
    kl.push_back(position.kl);
    row.kl_mean += position.kl;
    row.nll_delta += position.nll_delta;
    row.top1 += position.same_top ? 1 : 0;
  }
  const auto count = static_cast<double>(row.positions);
  row.kl_mean /= count;
  row.nll_delta /= count;
  row.top1 /= count;
  std::sort(kl.begin(), kl.end());
  row.kl_p999 = kl[static_cast<size_t>(0.999 * (count - 1))];
  return row;
}

Result<std::vector<Candidate>> MakeCandidates(const EvalOptions& options) {
  std::vector<Candidate> candidates;
  for (const std::string& name : options.codecs) {
    VARVE_TRY(const Codec* codec, FindCodec(name));
    candidates.push_back({.name = name, .codec = codec, .sequence = {}, .positions = {}});
  }
  if (options.codecs.empty()) {
    for (const Codec* codec : AllCodecs()) {
      if (codec->name() != kExact) {
        candidates.push_back(
            {.name = std::string(codec->name()), .codec = codec, .sequence = {}, .positions = {}});
      }
    }
  }
  return candidates;
}

}  // namespace

Result<std::vector<DivergenceRow>> MeasureDivergence(const EvalOptions& options,
                                                     void (*progress)(int64_t, int64_t)) {
  if (options.tokens <= kFirstScored || options.sequences < 1 || options.text_files.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("there must be a text, a sequence, and more than {} tokens in it: the "
                             "first ones are not scored",
                             kFirstScored)};
  }
  VARVE_TRY(std::vector<Candidate> candidates, MakeCandidates(options));
  VARVE_TRY(const std::unique_ptr<TextModel> text_model,
            LoadTextModel(options.model_dir, &SystemClock()));
  std::vector<std::vector<int32_t>> sequences;
  for (const std::string& file : options.text_files) {
    VARVE_TRY(const auto of_file, CutText(options, file, *text_model));
    sequences.insert(sequences.end(), of_file.begin(), of_file.end());
  }
  const int64_t block_tokens = KvPolicy().page_tokens;
  const int threads = options.threads > 0 ? options.threads : NumUsableCores();
  LocalWorkerGroupOptions group_options{.model_dir = options.model_dir,
                                        .weights = options.weights,
                                        .num_workers = 1,
                                        .num_threads = threads,
                                        .host_budget_bytes = kHostBytes,
                                        .max_step_tokens = block_tokens};
  VARVE_TRY(const std::unique_ptr<LocalWorkerGroup> group, LocalWorkerGroup::Open(group_options));
  std::unique_ptr<LocalWorkerGroup> stored;
  if (options.weights != "auto") {
    group_options.weights = "auto";
    VARVE_TRY(stored, LocalWorkerGroup::Open(group_options));
  }
  if (group->model().max_positions < options.tokens) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--tokens {} is more than the model's {} positions",
                             options.tokens,
                             group->model().max_positions)};
  }
  Evaluation evaluation(group.get(), stored.get(), threads);
  const int64_t blocks = (options.tokens + block_tokens - 1) / block_tokens;
  const int64_t total = blocks * static_cast<int64_t>(sequences.size());
  int64_t done = 0;
  for (const std::vector<int32_t>& tokens : sequences) {
    VARVE_RETURN_IF_ERROR(evaluation.OpenAll(&candidates));
    for (int64_t first = 0; first < options.tokens; first += block_tokens) {
      const int64_t count = std::min(block_tokens, options.tokens - first);
      VARVE_RETURN_IF_ERROR(evaluation.Block(tokens, first, count, &candidates));
      progress(++done, total);
    }
    VARVE_RETURN_IF_ERROR(evaluation.CloseAll(candidates));
  }
  const ModelConfig& config = group->config();
  const RunShape page{.num_kv_heads = config.num_kv_heads,
                      .head_dim = config.head_dim,
                      .token_capacity = static_cast<int32_t>(block_tokens)};
  std::vector<DivergenceRow> rows;
  if (stored != nullptr) {
    rows.push_back(Summarise(evaluation.weights(), page));
  }
  for (const Candidate& candidate : candidates) {
    rows.push_back(Summarise(candidate, page));
  }
  return rows;
}

}  // namespace varve::cli
