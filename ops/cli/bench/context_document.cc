#include "ops/cli/bench/context_document.h"

#include <iterator>

#include <fmt/format.h>

namespace varve::cli {

Result<FactDocument> MakeContextDocument(
    std::string_view text,
    const ContextDocumentOptions& options,
    const std::function<Result<int64_t>(std::string_view)>& count_tokens) {
  constexpr auto kNumTasks = static_cast<int64_t>(std::size(kTasks));
  constexpr auto kMostQuestions = kNumTasks * static_cast<int64_t>(kMaxFactsPerTask);
  if (text.empty()) {
    return Error{ErrorCode::kInvalidArgument, "the text is empty; give a file with words in it"};
  }
  if (options.questions < kNumTasks || options.questions > kMostQuestions ||
      options.questions % kNumTasks != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} questions; there are {} tasks that share them, so their number is "
                             "a multiple of {}, at most {}",
                             options.questions,
                             kNumTasks,
                             kNumTasks,
                             kMostQuestions)};
  }
  FactDocumentOptions facts{.per_task = static_cast<size_t>(options.questions / kNumTasks),
                            .background_bytes = 0,
                            .seed = options.seed};
  VARVE_TRY(const int64_t fact_tokens, count_tokens(MakeFactDocument(text, facts).text));
  if (options.tokens <= fact_tokens) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} tokens are too few: the facts for {} questions alone take {}",
                             options.tokens,
                             options.questions,
                             fact_tokens)};
  }
  VARVE_TRY(const int64_t text_tokens, count_tokens(text));
  const double bytes_per_token =
      static_cast<double>(text.size()) / static_cast<double>(text_tokens);
  facts.background_bytes =
      static_cast<size_t>(static_cast<double>(options.tokens - fact_tokens) * bytes_per_token);
  return MakeFactDocument(text, facts);
}

}  // namespace varve::cli
