#include "ops/cli/eval/documents.h"

#include <algorithm>

#include <fmt/format.h>

namespace varve::cli {
namespace {

constexpr int64_t kTokensPerFact = 160;   // of a document, per fact of each task
constexpr int64_t kQuestionTokens = 256;  // room behind the document

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

}  // namespace

Result<std::vector<Document>> MakeDocuments(const EvalOptions& options,
                                            const std::vector<LabText>& texts,
                                            const TextModel& text_model,
                                            int64_t max_positions) {
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
      VARVE_TRY(Document document, MakeDocument(length, text, seed, text_model));
      asked += static_cast<int64_t>(document.questions.size() / std::size(kTasks));
      documents.push_back(std::move(document));
    }
  }
  return documents;
}

}  // namespace varve::cli
