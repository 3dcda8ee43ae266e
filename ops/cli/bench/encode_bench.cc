#include "ops/cli/bench/encode_bench.h"

#include <cstdio>
#include <vector>

#include <fmt/core.h>

#include "ops/cli/bench/bench_pages.h"
#include "ops/cli/bench/median_ms.h"

namespace varve {

void PrintEncode(const AttentionBenchOptions& options, const Roofs& roofs, const Codec& codec) {
  const RunShape shape{options.num_kv_heads, options.head_dim, options.page_tokens};
  const size_t token_values = static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
  const size_t side_values = token_values * shape.token_capacity;
  const std::vector<float> k = BenchNormals(side_values, 1);
  const std::vector<float> v = BenchNormals(side_values, 2);
  const CodecTables* tables = BenchTables(codec, shape);
  const Rope rope = BenchRope(options.head_dim);
  std::vector<std::byte> bytes(codec.EncodedBytes(shape, tables));
  const double ms = MedianMs(options.runs, [&] {
    codec.Encode(shape,
                 0,
                 shape.token_capacity,
                 k.data(),
                 v.data(),
                 token_values,
                 {.tables = tables, .rope = &rope, .first_position = 0},
                 bytes);
  });
  const double values_per_s = 2.0 * static_cast<double>(side_values) / (ms / 1e3);
  const double tokens_per_s = shape.token_capacity / (ms / 1e3);
  const double input_gb_per_s = values_per_s * sizeof(uint16_t) / 1e9;
  // It reads fp32.
  const double roof_fraction = values_per_s * sizeof(float) / roofs.read_bytes_per_s;
  const double bpe = codec.BitsPerValue(shape);
  if (options.json) {
    fmt::print(
        "{{\"bench\": \"attention\", \"shape\": \"encode kv_heads={} head_dim={}\", \"codec\": "
        "\"{}\", "
        "\"bpe\": {:.4f}, \"tokens\": {}, \"threads\": 1, \"workers\": 1, \"median_ms\": {:.4f}, "
        "\"tokens_per_s\": {:.1f}, \"roof_fraction\": {:.4f}, \"input_gb_per_s\": {:.4f}, "
        "\"read_gb_per_s_roof\": {:.2f}}}\n",
        shape.num_kv_heads,
        shape.head_dim,
        codec.name(),
        bpe,
        shape.token_capacity,
        ms,
        tokens_per_s,
        roof_fraction,
        input_gb_per_s,
        roofs.read_bytes_per_s / 1e9);
  } else {
    fmt::print(
        "{:8} {:8} {:7.3f} {:9} {:8} {:8} {:11.3f} {:14.0f} {:10} {:7.3f} GB/s as bf16, {:.1f} % "
        "of reading it\n",
        "encode",
        codec.name(),
        bpe,
        shape.token_capacity,
        1,
        1,
        ms,
        tokens_per_s,
        "",
        input_gb_per_s,
        100.0 * roof_fraction);
  }
  std::fflush(stdout);
}

}  // namespace varve
