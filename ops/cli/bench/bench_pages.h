// What the attention bench fills its pages with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/codec/codec.h"

namespace varve {

std::vector<float> BenchNormals(size_t count, uint64_t seed);
// With the usual frequencies.
Rope BenchRope(int32_t head_dim);
// Tables as for a model whose keys and values are normal numbers; null for codecs without tables.
// Made once for each codec and number and size of heads: large codebooks take seconds. Not for
// threads.
const CodecTables* BenchTables(const Codec& codec, const RunShape& shape);

}  // namespace varve
