#include "ops/cli/plan/context_bytes.h"

#include <algorithm>

#include "kvstore/key_sketch.h"
#include "kvstore/page_cursor.h"
#include "kvstore/record_keys.h"

#include "ops/cli/bench/bench_pages.h"

namespace varve::cli {
namespace {

constexpr uint64_t kBf16Bytes = 2;

// The context's records of one layer.
class Layer {
 public:
  Layer(const KvGeometry& geometry,
        const ResolvedPolicy& policy,
        const Shard& shard,
        int64_t tokens,
        uint64_t context_id,
        int32_t layer)
      : sealer_(geometry),
        layer_(static_cast<uint16_t>(layer)),
        token_bytes_(2 * kBf16Bytes * sealer_.TokenFloats()) {
    segment_.owner = context_id;
    segment_.grid = PageGrid(policy.policy, shard, context_id);
    segment_.policy = policy;
    segment_.length = tokens;
    first_ =
        segment_.grid.FirstReachable(tokens, geometry.layer_windows[static_cast<size_t>(layer)]);
  }

  void Add(ContextBytes& sum) {
    const PageGrid& grid = segment_.grid;
    const int64_t sealed_end = grid.SealedEnd(segment_.length);
    // Pages behind the sinks are alike.
    const int64_t alike = std::clamp(grid.NumPages(segment_.policy.policy.sink_tokens),
                                     std::min(first_, sealed_end),
                                     sealed_end);
    for (int64_t page = grid.NextOwned(first_); page < alike; page = grid.NextOwned(page + 1)) {
      AddSealed(page, 1, sum);
    }
    const int64_t from = std::max(first_, alike);
    if (const int64_t pages = grid.CountOwned(from, std::max(from, sealed_end)); pages > 0) {
      AddSealed(grid.NextOwned(from), pages, sum);
    }
    segment_.source = PageSegment::Source::kTail;
    segment_.tail_version = 1;
    int64_t page = grid.NextOwned(std::max(first_, sealed_end));
    for (; page < grid.NumPages(segment_.length); page = grid.NextOwned(page + 1)) {
      const PageIdentity identity = segment_.IdentityOf(page, layer_, sealer_.ShapeOf(1));
      sum.tail_bytes += sealer_.TailBytes(segment_.policy, identity);
      sum.row_bytes += kRecordRowBytes;
      sum.bf16_bytes += static_cast<uint64_t>(identity.num_tokens) * token_bytes_;
    }
  }

 private:
  void AddSealed(int64_t page, int64_t times, ContextBytes& sum) {
    const PageIdentity identity = segment_.IdentityOf(page, layer_, sealer_.ShapeOf(1));
    const auto count = static_cast<uint64_t>(times);
    const uint64_t bytes = sealer_.SealedBytes(segment_.policy, identity);
    sum.pages += times;
    sum.page_bytes += count * bytes;
    sum.row_bytes += count * kRecordRowBytes;
    sum.bf16_bytes += count * static_cast<uint64_t>(identity.num_tokens) * token_bytes_;
    sum.full_page_bytes = std::max(sum.full_page_bytes, bytes);
  }

  Sealer sealer_;
  const uint16_t layer_;
  const uint64_t token_bytes_;
  PageSegment segment_;
  int64_t first_ = 0;
};

}  // namespace

Result<ContextBytes> BytesOfContext(const KvGeometry& geometry,
                                    const KvPolicy& policy,
                                    int64_t tokens,
                                    const Shard& shard,
                                    uint64_t context_id) {
  VARVE_TRY(const ResolvedPolicy resolved, ResolvedPolicy::Resolve(policy, geometry));
  const PageGrid grid(policy, shard, context_id);
  const auto sketched = static_cast<uint64_t>(grid.CountOwned(0, grid.SealedEnd(tokens)));
  const KeySketch sketch(geometry, policy.page_tokens);
  ContextBytes sum;
  for (int32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    Layer(geometry, resolved, shard, tokens, context_id, layer).Add(sum);
    if (geometry.layer_windows[static_cast<size_t>(layer)] == 0) {
      sum.sketch_bytes += sketched * sketch.BytesPerPage();
    }
  }
  return sum;
}

Result<KvGeometry> WithStandInTables(KvGeometry geometry, const KvPolicy& policy) {
  auto tables = std::make_shared<CodecTableSet>();
  for (const std::string& name : {policy.codec, policy.warm_codec, policy.cold_codec}) {
    if (name.empty()) {
      continue;
    }
    VARVE_TRY(const Codec* codec, FindCodec(name));
    const RunShape shape{geometry.num_kv_heads, geometry.head_dim, policy.page_tokens};
    const CodecTables* made = BenchTables(*codec, shape);
    for (int32_t layer = 0; made != nullptr && layer < geometry.num_layers(); ++layer) {
      tables->Add(codec->id(), layer, *made);
    }
  }
  geometry.codec_tables = std::move(tables);
  return geometry;
}

}  // namespace varve::cli
