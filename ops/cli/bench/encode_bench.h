// The part of `varve bench attention` that encodes.
#pragma once

#include "kernels/codec/codec.h"

#include "ops/cli/bench/attention_bench.h"
#include "ops/cli/bench/roofs.h"

namespace varve {

// One thread encodes a page again and again, from a cache; prints one row. roofs: of one thread.
void PrintEncode(const AttentionBenchOptions& options, const Roofs& roofs, const Codec& codec);

}  // namespace varve
