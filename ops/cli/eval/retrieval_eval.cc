#include "ops/cli/eval/retrieval_eval.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "ops/cli/eval/bootstrap.h"
#include "ops/cli/eval/facts.h"

namespace varve::cli {
namespace {

constexpr int64_t kTokensPerFact = 160;    // of a document, per fact of each task
constexpr int64_t kQuestionTokens = 256;   // room behind the document
constexpr int64_t kLongestQuestion = 224;  // a step of the lab takes two of them

struct AskedQuestion {
  Task task = Task::kNeedle;
  std::vector<int32_t> tokens;
  std::vector<size_t> scored;  // places in tokens that must be predicted
};

struct Document {
  int64_t length = 0;  // that was asked for
  std::vector<int32_t> tokens;
  std::vector<AskedQuestion> questions;
};

// One answer: what was asked, and whether it was right.
struct Outcome {
  Task task = Task::kNeedle;
  int64_t length = 0;
  bool right = false;
};

// The turns of a question as tokens: all of it, and which tokens the model has to say by itself.
Result<AskedQuestion> Render(const FactQuestion& question, const TextModel& text_model) {
  AskedQuestion asked{.task = question.task, .tokens = {}, .scored = {}};
  ChatMessages messages;
  for (const Turn& turn : question.turns) {
    messages.push_back({.role = "user", .content = QuestionOf(turn)});
    VARVE_TRY(std::string given, text_model.RenderChat(messages, true));
    // Templates end in what precedes an answer: a line's end, or a special token and then a space.
    const bool needs_space = given.empty() || (given.back() != '\n' && given.back() != ' ');
    given += fmt::format("{}{} is", needs_space ? " " : "", turn.key);
    const std::string whole = fmt::format("{} {}", given, turn.value);
    VARVE_TRY(const std::vector<int32_t> given_tokens, text_model.EncodePrompt(given, true));
    VARVE_TRY(asked.tokens, text_model.EncodePrompt(whole, true));
    // A tokenizer may join what is given and what is not; what differs has to be said.
    const auto first =
        std::mismatch(
            given_tokens.begin(), given_tokens.end(), asked.tokens.begin(), asked.tokens.end())
            .second;
    for (auto place = first; place != asked.tokens.end(); ++place) {
      asked.scored.push_back(static_cast<size_t>(place - asked.tokens.begin()));
    }
    messages.push_back(
        {.role = "assistant", .content = fmt::format("{} is {}.", turn.key, turn.value)});
  }
  return asked;
}

// Lengths that fit the model: facts over long documents are for models with room for them.
std::vector<int64_t> DefaultLengths(int64_t max_positions) {
  std::vector<int64_t> lengths;
  for (const int64_t length : {int64_t{4096}, int64_t{32'768}}) {
    if (length + kQuestionTokens <= max_positions) {
      lengths.push_back(length);
    }
  }
  return lengths.empty() ? std::vector<int64_t>{max_positions - kQuestionTokens} : lengths;
}

// Moves what all questions begin with, as a template's system message, behind the document, so that
// it is computed once and not for each question. No question is in it.
void ShareBeginning(Document* document) {
  std::vector<int32_t> shared = document->questions.front().tokens;
  for (const AskedQuestion& question : document->questions) {
    const auto end =
        std::mismatch(shared.begin(), shared.end(), question.tokens.begin(), question.tokens.end())
            .first;
    shared.erase(end, shared.end());
  }
  for (AskedQuestion& question : document->questions) {
    question.tokens.erase(question.tokens.begin(),
                          question.tokens.begin() + static_cast<std::ptrdiff_t>(shared.size()));
    for (size_t& place : question.scored) {
      place -= shared.size();
    }
  }
  document->tokens.insert(document->tokens.end(), shared.begin(), shared.end());
}

Result<Document> MakeDocument(int64_t length,
                              const LabText& text,
                              uint64_t seed,
                              const TextModel& text_model) {
  const auto per_task =
      static_cast<size_t>(std::clamp<int64_t>(length / kTokensPerFact, 1, kMaxFactsPerTask));
  FactDocumentOptions options{.per_task = per_task, .background_bytes = 0, .seed = seed};
  VARVE_TRY(const std::vector<int32_t> facts_only,
            text_model.EncodeDocument(MakeFactDocument(text.bytes, options).text, false));
  constexpr size_t kSampleBytes = 20'000;
  const std::string_view sample = std::string_view(text.bytes).substr(0, kSampleBytes);
  VARVE_TRY(const std::vector<int32_t> sample_tokens, text_model.EncodeDocument(sample, false));
  const double bytes_per_token =
      static_cast<double>(sample.size()) / static_cast<double>(sample_tokens.size());
  const int64_t left = std::max<int64_t>(length - static_cast<int64_t>(facts_only.size()), 0);
  options.background_bytes = static_cast<size_t>(static_cast<double>(left) * bytes_per_token);

  const FactDocument facts = MakeFactDocument(text.bytes, options);
  Document document{.length = length, .tokens = {}, .questions = {}};
  if (const auto bos = text_model.context_bos_id()) {
    document.tokens.push_back(*bos);
  }
  VARVE_TRY(const std::vector<int32_t> tokens, text_model.EncodeDocument(facts.text, false));
  document.tokens.insert(document.tokens.end(), tokens.begin(), tokens.end());
  for (const FactQuestion& question : facts.questions) {
    VARVE_TRY(AskedQuestion asked, Render(question, text_model));
    if (static_cast<int64_t>(asked.tokens.size()) > kLongestQuestion) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("the model's chat template makes {} tokens of a short question; the "
                               "lab takes up to {}",
                               asked.tokens.size(),
                               kLongestQuestion)};
    }
    document.questions.push_back(std::move(asked));
  }
  ShareBeginning(&document);
  return document;
}

Result<std::vector<Document>> MakeDocuments(const EvalOptions& options,
                                            const std::vector<LabText>& texts,
                                            const LabModel& model) {
  const int64_t max_positions = model.description().max_positions;
  const std::vector<int64_t> lengths =
      options.document_tokens.empty() ? DefaultLengths(max_positions) : options.document_tokens;
  std::vector<Document> documents;
  for (const int64_t length : lengths) {
    if (length < 2 * kTokensPerFact || length + kQuestionTokens > max_positions) {
      return Error{
          ErrorCode::kInvalidArgument,
          fmt::format("documents of {} tokens: they need {} for facts, and with a question "
                      "of {} must fit the model's {} positions",
                      length,
                      2 * kTokensPerFact,
                      kQuestionTokens,
                      max_positions)};
    }
    for (int64_t asked = 0; asked < options.questions;) {
      const uint64_t seed = options.seed * 1000 + documents.size();
      const LabText& text = texts[documents.size() % texts.size()];
      VARVE_TRY(Document document, MakeDocument(length, text, seed, model.text()));
      asked += static_cast<int64_t>(document.questions.size() / std::size(kTasks));
      documents.push_back(std::move(document));
    }
  }
  return documents;
}

bool IsRight(const AskedQuestion& question, std::span<const float> logits) {
  const size_t vocab = logits.size() / question.tokens.size();
  return std::all_of(question.scored.begin(), question.scored.end(), [&](size_t place) {
    const auto row = logits.subspan((place - 1) * vocab, vocab);
    return std::max_element(row.begin(), row.end()) - row.begin() == question.tokens[place];
  });
}

// Ingests a document, asks everything about it, forgets it.
Result<void> Ask(const Document& document,
                 const KvPolicy& policy,
                 LabModel* model,
                 std::vector<Outcome>* outcomes) {
  VARVE_TRY(const ContextId context, model->Ingest(document.tokens, policy));
  const auto length = static_cast<int64_t>(document.tokens.size());
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
      VARVE_TRY(const SequenceId sequence,
                model->OpenSequence({.base = context, .base_tokens = length, .policy = policy}));
      work.push_back({.sequence = sequence, .first_position = length, .tokens = question.tokens});
    }
    VARVE_TRY(const auto logits, model->StepAll(work));
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
                                              const std::vector<LabText>& texts,
                                              const std::vector<Candidate>& candidates,
                                              LabModel* model,
                                              LabProgress* progress) {
  VARVE_TRY(const std::vector<Document> documents, MakeDocuments(options, texts, *model));
  progress->Begin(fmt::format("retrieval, {} x{:g}", model->name(), model->outliers()),
                  static_cast<int64_t>(documents.size() * (candidates.size() + 1)));
  std::vector<Outcome> exact;
  std::vector<std::vector<Outcome>> outcomes(candidates.size());
  for (const Document& document : documents) {
    VARVE_RETURN_IF_ERROR(Ask(document, ExactKv(), model, &exact));
    progress->Advance();
    for (size_t i = 0; i < candidates.size(); ++i) {
      VARVE_RETURN_IF_ERROR(Ask(document, candidates[i].Kv(), model, &outcomes[i]));
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
