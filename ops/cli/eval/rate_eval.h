// Rate and distortion of each codec: bits per value against mean squared error, on Gaussian values
// and on keys and values that the model made of a text.
//
// Tables of codecs that need some are made with other tokens of the same kind: another draw of
// Gaussian values, the first half of the text whose second half is measured.
//
//   k_mse, v_mse  squared error over squared size, of keys and values, mean over layers and heads
//   mse           their geometric mean: what bits, which are a mean over both, are compared with
//   bpe           of the pages as they are encoded, their mean: tables may decide how large one is
//   gap_db        mse over 4^-bpe, in decibels: how far from Shannon's bound for Gaussian values
//
// Beside them, with policy "reference", three lines for Gaussian values: `shannon` (no code is
// better), `lloyd-max` (the best levels for single values, and a 16-bit norm for 128 of them) and
// `min-max` (equal steps between the smallest and the largest of 128 values, both in 16 bits). Real
// keys and values are no independent Gaussians: a codec that knows how they depend on each other
// can be below `shannon`, and outlier channels take the others above it. Small errors are not small
// harm either: attention weighs some errors more than others. That is what divergence and retrieval
// are for.
#pragma once

#include <vector>

#include "proto/base/result.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_progress.h"
#include "ops/cli/eval/recorded_kv.h"

namespace varve::cli {

// Pages of Gaussian values: one kv head of 128. Tables of those of the codecs that need some.
RecordedKv GaussianKv(uint64_t seed, const std::vector<const Codec*>& codecs);
// Their shape.
RunShape GaussianPage();

// The reference lines, at 1 to 8 bits, 1 to 5 bits and 2 to 8 bits.
std::vector<EvalRow> ReferenceLines();

// One row of part "rate" for each codec of the candidates. REQUIRES: kv has tables for those that
// need some.
std::vector<EvalRow> MeasureRate(const RecordedKv& kv,
                                 const std::vector<Candidate>& candidates,
                                 LabProgress* progress);

}  // namespace varve::cli
