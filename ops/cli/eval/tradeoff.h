// Many tokens in few bits against few tokens in many, at equal bytes ("More tokens, lower
// precision", 2412.12706): a codec of about 16, 8, 4 and 2 bits, each with the share of tokens that
// fits the same budget, written 1x16, 2x8, 4x4 and 8x2.
//
// The paper (Llama-3-8B and Mistral-7B; LongBench, needles, RULER) finds that
//   - answers get better from 1x16 to 2x8 to 4x4,
//   - 2 bits lose more than the tokens that they make room for bring,
//   - the tighter the budget the more is gained, and nothing at a quarter of the bytes or more.
#pragma once

#include <string>
#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"

namespace varve::cli {

// For each budget of options.budgets and each policy of options.policies that prunes (`snapkv`, as
// in the paper, if none does): the four candidates. kInvalidArgument for a budget that is not over
// 0, or an unknown policy.
Result<std::vector<Candidate>> TradeoffCandidates(const EvalOptions& options,
                                                  const RunShape& page,
                                                  int32_t num_layers = 1);

// What rows of part "tradeoff" say: for each model, scale of outliers, policy and budget one line
// with the four shares of answers, where they follow the paper's shape and where they differ from
// it by more than their intervals, and one on how the gain changes with the budget. Rows without
// retrieval are passed over.
std::vector<std::string> DescribeTradeoff(const std::vector<EvalRow>& rows);

}  // namespace varve::cli
