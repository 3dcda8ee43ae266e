#include "ops/cli/bench/lookups.h"

#include <algorithm>

#include <fmt/format.h>

#include "proto/base/check.h"
#include "proto/base/clock.h"

namespace varve::cli {
namespace {

constexpr int64_t kAnswerTokens = 64;

std::string AnswerTo(const Turn& turn) {
  return fmt::format("{} is {}.", turn.key, turn.value);
}

}  // namespace

double Quantile(std::vector<double> values, double share) {
  VARVE_CHECK(!values.empty());
  const auto at =
      std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(at), values.end());
  return values[at];
}

Result<LookupResults> AskLookups(const ApiClient& client,
                                 std::span<const FactQuestion> questions,
                                 ChatRequest how,
                                 const std::function<void()>& on_answer) {
  const Clock& clock = SystemClock();
  LookupResults results;
  how.max_tokens = kAnswerTokens;
  for (const FactQuestion& question : questions) {
    how.history.clear();
    for (const Turn& turn : std::span(question.turns).first(question.turns.size() - 1)) {
      how.history.push_back({QuestionOf(turn), AnswerTo(turn)});
    }
    const Turn& asked = question.turns.back();
    how.question = QuestionOf(asked);
    int64_t last_us = 0;
    VARVE_TRY(const ChatAnswer answer, client.Ask(how, [&](std::string_view /*piece*/) {
      const int64_t now_us = clock.NowUs();
      if (last_us != 0) {
        results.gaps_s.push_back(static_cast<double>(now_us - last_us) * 1e-6);
      }
      last_us = now_us;
    }));
    ++results.asked;
    results.right += answer.text.find(AnswerTo(asked)) != std::string::npos ? 1 : 0;
    results.first_s.push_back(answer.first_token_s);
    results.pages_read += answer.pages_read.value_or(0);
    results.pages_total += answer.pages_total;
    if (answer.error_bound) {
      results.error_bounds.push_back(*answer.error_bound);
    }
    on_answer();
  }
  return results;
}

}  // namespace varve::cli
