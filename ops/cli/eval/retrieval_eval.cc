#include "ops/cli/eval/retrieval_eval.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "kvstore/tokens/token_policy.h"

#include "ops/cli/eval/bootstrap.h"

namespace varve::cli {
namespace {

// One answer: what was asked, and whether it was right.
struct Outcome {
  Task task = Task::kNeedle;
  int64_t length = 0;
  bool right = false;
};

bool IsRight(const AskedQuestion& question, std::span<const float> logits) {
  const size_t vocab = logits.size() / question.tokens.size();
  return std::all_of(question.scored.begin(), question.scored.end(), [&](size_t place) {
    const auto row = logits.subspan((place - 1) * vocab, vocab);
    return std::max_element(row.begin(), row.end()) - row.begin() == question.tokens[place];
  });
}

// The logits of requests as a server computes them: a step for what is given, then one for each
// token of the answer. Where each step chooses what it reads, one step for all would choose for
// them together.
Result<std::vector<std::vector<float>>> StepAsServed(std::span<const AskedQuestion> questions,
                                                     std::span<const SequenceWork> requests,
                                                     LabModel* model) {
  std::vector<std::vector<float>> logits(requests.size());
  std::vector<size_t> done(requests.size(), 0);
  while (true) {
    std::vector<SequenceWork> work;
    std::vector<size_t> places;
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<int32_t>& tokens = requests[i].tokens;
      const size_t end = done[i] == 0 ? questions[i].scored.front() : done[i] + 1;
      if (done[i] < tokens.size()) {
        SequenceWork& piece = work.emplace_back(requests[i]);
        piece.first_position += static_cast<int64_t>(done[i]);
        piece.tokens.assign(tokens.begin() + static_cast<ptrdiff_t>(done[i]),
                            tokens.begin() + static_cast<ptrdiff_t>(end));
        places.push_back(i);
        done[i] = end;
      }
    }
    if (work.empty()) {
      return logits;
    }
    VARVE_TRY(const auto stepped, model->StepAll(std::move(work)));
    for (size_t i = 0; i < places.size(); ++i) {
      std::vector<float>& all = logits[places[i]];
      all.insert(all.end(), stepped[i].begin(), stepped[i].end());
    }
  }
}

// Ingests a document, asks everything about it as the candidate does (null: exactly), forgets it.
Result<void> Ask(const Document& document,
                 const KvPolicy& policy,
                 const Candidate* candidate,
                 LabModel* model,
                 std::vector<Outcome>* outcomes) {
  VARVE_TRY(const ContextId context, model->Ingest(document.tokens, policy));
  const auto length = static_cast<int64_t>(document.tokens.size());
  OpenSequenceOptions options{.base = context, .base_tokens = length, .policy = policy};
  if (candidate != nullptr) {
    options.selective = candidate->Selective(length);
  }
  const bool chooses_pages = candidate != nullptr && candidate->ChoosesPages();
  for (size_t first = 0; first < document.questions.size();) {
    std::vector<SequenceWork> work;
    size_t num_tokens = 0;
    size_t end = first;
    for (; end < document.questions.size(); ++end) {
      const AskedQuestion& question = document.questions[end];
      num_tokens += question.tokens.size();
      if (num_tokens > LabModel::kStepTokens) {
        break;
      }
      VARVE_TRY(const SequenceId sequence, model->OpenSequence(options));
      work.push_back({.sequence = sequence, .first_position = length, .tokens = question.tokens});
    }
    const auto questions = std::span(document.questions).subspan(first, end - first);
    VARVE_TRY(const auto logits,
              chooses_pages ? StepAsServed(questions, work, model) : model->StepAll(work));
    for (size_t i = first; i < end; ++i) {
      VARVE_RETURN_IF_ERROR(model->CloseSequence(work[i - first].sequence));
      const AskedQuestion& question = document.questions[i];
      outcomes->push_back({question.task, document.length, IsRight(question, logits[i - first])});
    }
    first = end;
  }
  return model->Delete(context);
}

// The share of right answers, over all tasks and lengths or one of them.
template <typename Wanted>
double ShareOf(const std::vector<Outcome>& outcomes, Wanted&& wanted) {
  double asked = 0;
  double right = 0;
  for (const Outcome& outcome : outcomes) {
    asked += wanted(outcome) ? 1 : 0;
    right += wanted(outcome) && outcome.right ? 1 : 0;
  }
  return asked > 0 ? right / asked : 0;
}

void AddFigures(const std::vector<Outcome>& outcomes,
                const std::vector<Outcome>& exact,
                uint64_t seed,
                EvalRow* row) {
  const auto all = [](const Outcome& /*outcome*/) { return true; };
  const double share = ShareOf(outcomes, all);
  const double exact_share = ShareOf(exact, all);
  std::vector<char> right;
  std::map<int64_t, bool> lengths;
  for (const Outcome& outcome : outcomes) {
    right.push_back(outcome.right ? 1 : 0);
    lengths[outcome.length] = true;
  }
  const Interval interval = BootstrapMean(right, seed);
  row->Add("retrieval_exact", share);
  row->Add("retrieval_low", interval.low);
  row->Add("retrieval_high", interval.high);
  row->Add("retrieval_exact_kv", exact_share);
  row->AddDetail("retrieval_relative", exact_share > 0 ? share / exact_share : 0);
  for (const Task task : kTasks) {
    const auto of_task = [task](const Outcome& outcome) { return outcome.task == task; };
    row->Add(fmt::format("exact_{}", TaskName(task)), ShareOf(outcomes, of_task));
    row->AddDetail(fmt::format("exact_kv_{}", TaskName(task)), ShareOf(exact, of_task));
  }
  for (const auto& [length, is_there] : lengths) {
    if (lengths.size() > 1) {
      const auto of_length = [wanted = length](const Outcome& o) { return o.length == wanted; };
      row->AddDetail(fmt::format("exact_{}", length), ShareOf(outcomes, of_length));
    }
  }
  row->AddDetail("questions", static_cast<double>(outcomes.size()));
}

}  // namespace

Result<std::vector<EvalRow>> MeasureRetrieval(const EvalOptions& options,
                                              const std::vector<Document>& documents,
                                              const std::vector<Candidate>& candidates,
                                              LabModel* model,
                                              LabProgress* progress) {
  progress->Begin(fmt::format("retrieval, {} x{:g}", model->name(), model->outliers()),
                  static_cast<int64_t>(documents.size() * (candidates.size() + 1)));
  std::vector<Outcome> exact;
  std::vector<std::vector<Outcome>> outcomes(candidates.size());
  for (const Document& document : documents) {
    VARVE_RETURN_IF_ERROR(Ask(document, ExactKv(), nullptr, model, &exact));
    progress->Advance();
    for (size_t i = 0; i < candidates.size(); ++i) {
      const Candidate& candidate = candidates[i];
      VARVE_RETURN_IF_ERROR(Ask(document, candidate.Kv(), &candidate, model, &outcomes[i]));
      progress->Advance();
    }
  }
  std::vector<EvalRow> rows;
  for (size_t i = 0; i < candidates.size(); ++i) {
    EvalRow& row =
        rows.emplace_back(candidates[i].Row("quality", model->name(), model->outliers()));
    AddFigures(outcomes[i], exact, options.seed, &row);
  }
  return rows;
}

}  // namespace varve::cli
