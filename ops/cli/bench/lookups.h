// Asks a server about facts that were planted in a context, and times its answers token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "proto/base/result.h"

#include "ops/cli/api_client.h"
#include "ops/cli/eval/facts.h"

namespace varve::cli {

struct LookupResults {
  int64_t asked = 0;
  int64_t right = 0;            // the answer says "{key} is {value}."
  std::vector<double> gaps_s;   // from a piece of an answer to the next one
  std::vector<double> first_s;  // from a question to the first piece of its answer
  int64_t pages_read = 0;       // over all steps and layers; of selective attention
  int64_t pages_total = 0;
  std::vector<double> error_bounds;  // [answers of selective attention]; infinite: not known
};

// Of `values`, in [0, 1]: 0.5 is the median, the upper one of two. REQUIRES: values.
double Quantile(std::vector<double> values, double share);

// Asks each question in turn; `how` says about which context and with which attention. Of a
// question of several turns only the last is asked, behind the others with their right answers.
// `on_answer` is called after each.
Result<LookupResults> AskLookups(const ApiClient& client,
                                 std::span<const FactQuestion> questions,
                                 ChatRequest how,
                                 const std::function<void()>& on_answer);

}  // namespace varve::cli
