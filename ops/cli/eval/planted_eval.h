// Attention over up to millions of tokens without a model: does it still find a planted needle when
// keys and values are kept by a codec, and how does that change with the length?
//
// One kv head of 128 channels, a few of which have `outliers` times the deviation of the others and
// a mean beside it, as the keys of large models have; queries weigh these channels less by as much.
// Scores of ordinary tokens have a deviation of 2. For each length N there are 16 queries; each has
// one needle at a random place, whose score makes it half of the softmax mass over N tokens (ln N
// plus 2), and eight decoys whose scores are lower by 2. Tokens, needles and decoys go through
// codecs in whole pages; tables of those that need some are made with another draw of ordinary
// tokens and of queries.
//
// Pages are made by the seed, coded, attended over and forgotten, 64 at a time, once for all
// lengths. Memory does not grow with the length: 17 MB for the pages at hand, and 50 KB for each
// length and codec.
//
//   tokens, ln_n   N
//   output_error   ||o' - o|| / ||o|| of the attention's output, mean over queries
//   mass_recall    exact softmax mass in the 16 pages that have most mass by the codec's scores,
//   over that
//                  in the 16 best pages: what a selection by these scores would lose
//   needle_argmax  share of queries for which the page with most mass is the needle's
//   score_error    root mean square error of the score of the needle's page; 0.1 to 0.2 is harmless
#pragma once

#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_progress.h"

namespace varve::cli {

inline constexpr int64_t kMostPlantedTokens = int64_t{16} << 20;

// The page of which the candidates' bits are counted.
RunShape PlantedPage();

// options.planted_tokens, each once, ascending. kInvalidArgument if one is no multiple of a page,
// has no room for needles or is over kMostPlantedTokens.
Result<std::vector<int64_t>> PlantedLengths(const EvalOptions& options);

// One row of part "planted" for each candidate and length. Errors: as PlantedLengths.
Result<std::vector<EvalRow>> MeasurePlanted(const EvalOptions& options,
                                            double outliers,
                                            const std::vector<Candidate>& candidates,
                                            LabProgress* progress);

}  // namespace varve::cli
