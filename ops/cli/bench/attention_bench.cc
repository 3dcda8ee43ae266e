#include "ops/cli/bench/attention_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <vector>

#include "kernels/attend.h"
#include "kernels/ref/reference_attention.h"

#include "ops/cli/bench/bench_pages.h"
#include "ops/cli/bench/encode_bench.h"
#include "ops/cli/bench/median_ms.h"
#include "ops/cli/bench/roofs.h"

namespace varve {
namespace {

// One context of encoded pages, and queries at its end.
class Workload {
 public:
  Workload(const AttentionBenchOptions& options,
           const Codec& codec,
           int64_t num_tokens,
           int64_t num_queries);

  // Attends with a fresh state.
  void Run(ThreadTeam& team);
  // Empty if the result of Run is the reference's.
  std::string Verify(ThreadTeam& team);

  double encoded_bytes() const;
  // Multiplications and additions of q.k and p.v over the tokens that each query sees.
  double flops() const;

 private:
  AttendParams Params();

  const AttentionBenchOptions& options_;
  int64_t num_tokens_;
  const CodecTables* tables_ = nullptr;
  Rope rope_;
  std::vector<std::vector<std::byte>> pages_;
  std::vector<KvView> views_;
  std::vector<float> q_;
  std::vector<int64_t> positions_;
  std::vector<float> o_;
  std::vector<float> lse_;
  AttendScratch scratch_;
};

Workload::Workload(const AttentionBenchOptions& options,
                   const Codec& codec,
                   int64_t num_tokens,
                   int64_t num_queries)
    : options_(options), num_tokens_(num_tokens), rope_(BenchRope(options.head_dim)) {
  // A few pages are encoded, the others are copies: every page has bytes of its own in memory.
  constexpr size_t kDistinctPages = 8;
  const RunShape shape{options.num_kv_heads, options.head_dim, options.page_tokens};
  const size_t token_values = static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
  tables_ = BenchTables(codec, shape);
  for (int64_t begin = 0; begin < num_tokens; begin += shape.token_capacity) {
    const size_t page = pages_.size();
    if (page < kDistinctPages) {
      const std::vector<float> k = BenchNormals(token_values * shape.token_capacity, 2 * page);
      const std::vector<float> v = BenchNormals(token_values * shape.token_capacity, 2 * page + 1);
      std::vector<std::byte>& bytes = pages_.emplace_back(codec.EncodedBytes(shape, tables_));
      codec.Encode(shape,
                   0,
                   shape.token_capacity,
                   k.data(),
                   v.data(),
                   token_values,
                   {.tables = tables_, .rope = &rope_, .first_position = begin},
                   bytes);
    } else {
      pages_.push_back(std::vector<std::byte>(pages_[page % kDistinctPages]));
    }
    KvView view{};
    view.codec = codec.id();
    view.tables = tables_;
    view.rope = &rope_;
    view.encoded = pages_.back();
    view.token_capacity = shape.token_capacity;
    view.num_tokens =
        static_cast<int32_t>(std::min<int64_t>(shape.token_capacity, num_tokens - begin));
    view.first_position = begin;
    views_.push_back(view);
  }
  for (int64_t i = 0; i < num_queries; ++i) {
    positions_.push_back(num_tokens - num_queries + i);
  }
  const size_t rows = positions_.size() * options.num_qo_heads;
  q_ = BenchNormals(rows * options.head_dim, 99);
  o_.resize(q_.size());
  lse_.resize(rows);
}

AttendParams Workload::Params() {
  AttendParams params;
  params.num_qo_heads = options_.num_qo_heads;
  params.num_kv_heads = options_.num_kv_heads;
  params.head_dim = options_.head_dim;
  params.sm_scale = 1.0F / std::sqrt(static_cast<float>(options_.head_dim));
  params.q = q_.data();
  params.q_stride = static_cast<size_t>(options_.num_qo_heads) * options_.head_dim;
  params.positions = positions_;
  params.views = views_;
  params.o = o_.data();
  params.lse = lse_.data();
  return params;
}

void Workload::Run(ThreadTeam& team) {
  std::fill(o_.begin(), o_.end(), 0.0F);
  std::fill(lse_.begin(), lse_.end(), -INFINITY);
  Attend(Params(), scratch_, team);
}

std::string Workload::Verify(ThreadTeam& team) {
  Run(team);
  const ReferenceState expected = ReferenceAttend(Params());
  const double tolerance = AttendTolerance(views_.front().codec);
  for (size_t i = 0; i < o_.size(); ++i) {
    // Written so that NaN fails, too.
    if (!(std::fabs(o_[i] - expected.o[i]) <= tolerance * (1.0 + std::fabs(expected.o[i])))) {
      return "o[" + std::to_string(i) + "] is " + std::to_string(o_[i]) + ", the reference has " +
             std::to_string(expected.o[i]);
    }
  }
  return "";
}

double Workload::encoded_bytes() const {
  double bytes = 0.0;
  for (const std::vector<std::byte>& page : pages_) {
    bytes += static_cast<double>(page.size());
  }
  return bytes;
}

double Workload::flops() const {
  double pairs = 0.0;
  for (const int64_t position : positions_) {
    pairs += static_cast<double>(position + 1);
  }
  return 4.0 * pairs * options_.num_qo_heads * options_.head_dim;
}

struct Figure {
  const char* kind;  // "decode" or "prefill"
  std::string codec;
  double bpe;
  int64_t tokens;
  int64_t queries;
  double median_ms;
  double tokens_per_s;   // decode: context tokens read; prefill: query tokens done
  double roof_fraction;  // of min(bandwidth roof, arithmetic roof)
  bool memory_bound;
  double gflops;
};

void Print(const AttentionBenchOptions& options, const Roofs& roofs, const Figure& figure) {
  const std::string shape = std::string(figure.kind) +
                            " queries=" + std::to_string(figure.queries) +
                            " qo_heads=" + std::to_string(options.num_qo_heads) +
                            " kv_heads=" + std::to_string(options.num_kv_heads) +
                            " head_dim=" + std::to_string(options.head_dim);
  if (options.json) {
    std::printf(
        "{\"bench\": \"attention\", \"shape\": \"%s\", \"codec\": \"%s\", \"bpe\": %.4f, "
        "\"tokens\": %lld, "
        "\"threads\": %d, \"workers\": 1, \"median_ms\": %.4f, \"tokens_per_s\": %.1f, "
        "\"roof_fraction\": %.4f, "
        "\"gflops\": %.2f, \"read_gb_per_s_roof\": %.2f, \"fp32_gflops_roof\": %.1f}\n",
        shape.c_str(),
        figure.codec.c_str(),
        figure.bpe,
        static_cast<long long>(figure.tokens),
        options.threads,
        figure.median_ms,
        figure.tokens_per_s,
        figure.roof_fraction,
        figure.gflops,
        roofs.read_bytes_per_s / 1e9,
        roofs.fp32_flops_per_s / 1e9);
  } else {
    std::printf("%-8s %-8s %7.3f %9lld %8d %8d %11.3f %14.0f %10.1f %7.1f %% of %s\n",
                figure.kind,
                figure.codec.c_str(),
                figure.bpe,
                static_cast<long long>(figure.tokens),
                options.threads,
                1,
                figure.median_ms,
                figure.tokens_per_s,
                figure.gflops,
                100.0 * figure.roof_fraction,
                figure.memory_bound ? "bandwidth" : "arithmetic");
  }
  std::fflush(stdout);
}

Figure Measure(const AttentionBenchOptions& options,
               const Roofs& roofs,
               const Codec& codec,
               int64_t tokens,
               int64_t queries,
               ThreadTeam& team) {
  Workload workload(options, codec, tokens, queries);
  Figure figure{};
  figure.kind = queries == 1 ? "decode" : "prefill";
  figure.codec = codec.name();
  figure.bpe = codec.BitsPerValue({options.num_kv_heads, options.head_dim, options.page_tokens});
  figure.tokens = tokens;
  figure.queries = queries;
  figure.median_ms = MedianMs(options.runs, [&] { workload.Run(team); });
  const double seconds = figure.median_ms / 1e3;
  const double read_seconds = workload.encoded_bytes() / roofs.read_bytes_per_s;
  const double fma_seconds = workload.flops() / roofs.fp32_flops_per_s;
  figure.tokens_per_s = static_cast<double>(queries == 1 ? tokens : queries) / seconds;
  figure.memory_bound = read_seconds > fma_seconds;
  figure.roof_fraction = std::max(read_seconds, fma_seconds) / seconds;
  figure.gflops = workload.flops() / seconds / 1e9;
  return figure;
}

// Both ways to attend, on contexts that the reference can afford. Empty if they are right.
std::string VerifyCodec(const AttentionBenchOptions& options,
                        const Codec& codec,
                        ThreadTeam& team) {
  std::string wrong = Workload(options, codec, 1000, 1).Verify(team);
  if (wrong.empty()) {
    wrong = Workload(options, codec, 300, 20).Verify(team);
  }
  return wrong.empty() ? "" : "codec " + std::string(codec.name()) + ": " + wrong;
}

// What is wrong with the options, or nothing.
std::optional<std::string> Refusal(const AttentionBenchOptions& options) {
  if (options.num_kv_heads < 1 || options.num_qo_heads < 1 ||
      options.num_qo_heads % options.num_kv_heads != 0) {
    return "the number of query heads must be a multiple of the number of kv heads";
  }
  if (options.head_dim < 8 || options.head_dim > 256 || options.head_dim % 8 != 0) {
    return "head_dim must be a multiple of 8 from 8 to 256";
  }
  if (options.threads < 1 || options.runs < 1 || options.page_tokens < 1) {
    return "threads, runs and page_tokens must be at least 1";
  }
  if (options.tokens.empty() ||
      *std::min_element(options.tokens.begin(), options.tokens.end()) < 1) {
    return "at least one context length is needed, of at least 1 token";
  }
  return std::nullopt;
}

}  // namespace

int RunAttentionBench(const AttentionBenchOptions& options) {
  if (const std::optional<std::string> refusal = Refusal(options)) {
    std::fprintf(stderr, "bench attention: %s\n", refusal->c_str());
    return 2;
  }
  std::vector<const Codec*> codecs(AllCodecs().begin(), AllCodecs().end());
  if (options.codec != "all") {
    const Result<const Codec*> codec = FindCodec(options.codec);
    if (!codec) {
      std::fprintf(stderr, "bench attention: %s\n", codec.error().message.c_str());
      return 2;
    }
    codecs = {codec.value()};
  }
  ThreadTeam team(options.threads);
  for (const Codec* codec : codecs) {
    const std::string wrong = VerifyCodec(options, *codec, team);
    if (!wrong.empty()) {
      std::fprintf(stderr, "bench attention: wrong result: %s\n", wrong.c_str());
      return 1;
    }
  }
  const Roofs roofs = MeasureRoofs(options.threads);
  if (!options.json) {
    std::printf(
        "roofs with %d threads: %.1f GB/s read, %.1f GFLOP/s fp32; %d query heads, %d kv heads, "
        "head_dim %d; "
        "median of %d\n",
        options.threads,
        roofs.read_bytes_per_s / 1e9,
        roofs.fp32_flops_per_s / 1e9,
        options.num_qo_heads,
        options.num_kv_heads,
        options.head_dim,
        options.runs);
    std::printf("%-8s %-8s %7s %9s %8s %8s %11s %14s %10s %s\n",
                "shape",
                "codec",
                "bpe",
                "tokens",
                "threads",
                "workers",
                "median ms",
                "tokens/s",
                "GFLOP/s",
                "roof");
  }
  for (const int64_t tokens : options.tokens) {
    for (const Codec* codec : codecs) {
      Print(options, roofs, Measure(options, roofs, *codec, tokens, 1, team));
      const bool prefill = options.prefill_queries > 1 && tokens >= options.prefill_queries &&
                           tokens <= options.prefill_max_tokens;
      if (prefill) {
        Print(
            options, roofs, Measure(options, roofs, *codec, tokens, options.prefill_queries, team));
      }
    }
  }
  const Roofs one_thread = options.threads == 1 ? roofs : MeasureRoofs(1);
  for (const Codec* codec : codecs) {
    PrintEncode(options, one_thread, *codec);
  }
  return 0;
}

}  // namespace varve
