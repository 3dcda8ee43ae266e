#include "ops/cli/bench/bench_pages.h"

#include <cmath>
#include <map>
#include <tuple>

#include "proto/base/rng.h"

namespace varve {

std::vector<float> BenchNormals(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = rng.NextNormal();
  }
  return values;
}

Rope BenchRope(int32_t head_dim) {
  RopeSpec spec;
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    spec.inv_freq.push_back(std::pow(10'000.0, -2.0 * i / head_dim));
  }
  return Rope(spec);
}

const CodecTables* BenchTables(const Codec& codec, const RunShape& shape) {
  if (!codec.needs_tables()) {
    return nullptr;
  }
  constexpr size_t kTokens = 1024;
  static std::map<std::tuple<CodecId, int32_t, int32_t>, CodecTables> made;
  CodecTables& tables = made[{codec.id(), shape.num_kv_heads, shape.head_dim}];
  if (!tables.values.empty()) {
    return &tables;
  }
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  const size_t width = static_cast<size_t>(shape.num_kv_heads) * head_dim;
  CalibrationSample sample{.num_kv_heads = shape.num_kv_heads,
                           .head_dim = shape.head_dim,
                           .num_tokens = kTokens,
                           .k = BenchNormals(kTokens * width, 1001),
                           .v = BenchNormals(kTokens * width, 1002),
                           .q_moment = std::vector<double>(width * head_dim),
                           .has_rope = true};
  for (size_t i = 0; i < width; ++i) {
    sample.q_moment[i * head_dim + i % head_dim] = 1.0;
  }
  tables = codec.Calibrate(sample);
  return &tables;
}

}  // namespace varve
