#include "ops/cli/bench/scale_bench.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "kernels/codec/codec.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/units.h"

#include "ops/cli/bench/attention_group.h"
#include "ops/cli/bench/lookups.h"
#include "ops/cli/bench/roofs.h"
#include "ops/cli/eval/lab_progress.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/progress.h"
#include "ops/cli/temporary_directory.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

constexpr uint64_t kFillBytes = kGiB;  // the host's while the context is made
// Tails, workspaces and two reads in flight of one worker of this shape.
constexpr uint64_t kFewestDeviceBytes = 8 * kMiB;

Error Invalid(std::string message) {
  return Error{ErrorCode::kInvalidArgument, std::move(message)};
}

Result<void> Check(const ScaleBenchOptions& options) {
  const ScaleShape& shape = options.shape;
  if (shape.num_kv_heads < 1 || shape.head_dim < 2 || shape.head_dim % 2 != 0 ||
      shape.num_qo_heads < shape.num_kv_heads || shape.num_qo_heads % shape.num_kv_heads != 0) {
    return Invalid(
        fmt::format("--qo-heads {} --kv-heads {} --head-dim {}: query heads are a "
                    "multiple of KV heads, and heads have an even number of values",
                    shape.num_qo_heads,
                    shape.num_kv_heads,
                    shape.head_dim));
  }
  for (const int64_t tokens : options.tokens) {
    if (tokens < ScaleStream::kBlockTokens || tokens % ScaleStream::kBlockTokens != 0) {
      return Invalid(fmt::format("--tokens {}: lengths are multiples of 64K", tokens));
    }
  }
  for (const std::string& attention : options.attention) {
    if (attention != "exact" && attention != "select") {
      return Invalid(fmt::format("--attention '{}'; there are exact and select", attention));
    }
  }
  if (options.tokens.empty() || options.attention.empty()) {
    return Invalid("name a length and a kind of attention");
  }
  if (!(options.device_share > 0) || !(options.host_share > 0)) {
    return Invalid("--device-share and --host-share are above 0");
  }
  VARVE_TRY(const Codec* codec, FindCodec(options.codec));
  if (codec->needs_tables()) {
    return Invalid(
        fmt::format("--codec {} needs tables of a model, and there is none here", options.codec));
  }
  return {};
}

ModelConfig ConfigOf(const ScaleShape& shape) {
  ModelConfig config;
  config.vocab_size = 1;  // nothing is embedded, projected or sampled
  config.hidden_size = 1;
  config.ffn_size = 1;
  config.num_layers = 1;
  config.num_qo_heads = shape.num_qo_heads;
  config.num_kv_heads = shape.num_kv_heads;
  config.head_dim = shape.head_dim;
  config.sm_scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  config.max_positions = std::numeric_limits<int64_t>::max();
  config.layers = {{.window = 0, .rope = -1}};
  return config;
}

// What was measured of one length with one attention.
struct Figure {
  std::string attention;
  int64_t tokens = 0;
  std::vector<double> seconds;
  int64_t pages_read = 0;  // of all steps
  int64_t pages_total = 0;
  double error_bound = 0;  // the largest; infinite: not known
  int64_t needles_found = 0;
  int64_t needles = 0;
  WorkerStats reads;  // where the pages came from
  uint64_t device_budget = 0;
  uint64_t host_budget = 0;
};

class Bench {
 public:
  Bench(const ScaleBenchOptions& options, std::string data_dir)
      : options_(options),
        threads_(options.threads > 0 ? options.threads : NumUsableCores()),
        stream_(options.shape, options.seed) {
    policy_.codec = options.codec;
    group_options_ = {.config = ConfigOf(options.shape),
                      .policy = policy_,
                      .context_name = fmt::format("scale-{}-{}x{}-{}",
                                                  options.codec,
                                                  options.shape.num_kv_heads,
                                                  options.shape.head_dim,
                                                  options.seed),
                      .data_dir = std::move(data_dir),
                      .num_workers = options.workers,
                      .num_threads = threads_};
  }

  Result<void> Run() {
    roofs_ = MeasureRoofs(threads_);
    VARVE_RETURN_IF_ERROR(Fill());
    for (const int64_t tokens : options_.tokens) {
      VARVE_RETURN_IF_ERROR(MeasureLength(tokens));
    }
    return {};
  }

 private:
  Result<void> Fill() {
    const int64_t wanted = *std::max_element(options_.tokens.begin(), options_.tokens.end());
    group_options_.host_budget_bytes = kFillBytes;
    group_options_.device_budget_bytes = 0;
    VARVE_TRY(const auto group, AttentionGroup::Open(group_options_));
    const int64_t before = group->num_tokens();
    if (before < wanted) {
      LabProgress progress(stderr, "bench scale");
      progress.Begin("making pages", wanted - before);
      VARVE_RETURN_IF_ERROR(group->Fill(
          wanted,
          ScaleStream::kTopicTokens,
          [&](int64_t first, float* k, float* v) {
            stream_.MakeTopic(first / ScaleStream::kTopicTokens, k, v);
          },
          [&](int64_t tokens) { progress.AdvanceTo(tokens - before); }));
    }
    VARVE_TRY(const uint64_t bytes, group->DiskBytes());
    bytes_per_token_ = static_cast<double>(bytes) / static_cast<double>(group->num_tokens());
    return {};
  }

  Result<void> MeasureLength(int64_t tokens) {
    const double bytes = bytes_per_token_ * static_cast<double>(tokens);
    group_options_.device_budget_bytes =
        std::max(static_cast<uint64_t>(options_.device_share * bytes),
                 kFewestDeviceBytes * static_cast<uint64_t>(options_.workers));
    group_options_.host_budget_bytes = static_cast<uint64_t>(options_.host_share * bytes);
    VARVE_TRY(const auto group, AttentionGroup::Open(group_options_));
    for (const std::string& attention : options_.attention) {
      VARVE_TRY(const Figure figure, Measure(*group, tokens, attention));
      Print(figure);
    }
    return {};
  }

  // The first step, which fills tiers and sketches, is not counted.
  Result<Figure> Measure(AttentionGroup& group, int64_t tokens, const std::string& attention) {
    std::optional<SelectiveAttention> selective;
    if (attention == "select") {
      selective = SelectiveAttention{.epsilon = options_.epsilon,
                                     .budget_tokens = options_.budget_tokens,
                                     .seed = options_.seed};
    }
    Figure figure{.attention = attention,
                  .tokens = tokens,
                  .device_budget = group_options_.device_budget_bytes,
                  .host_budget = group_options_.host_budget_bytes};
    const std::vector<float> values(stream_.width(), 0.0F);
    VARVE_TRY(const SequenceId request, group.OpenRequest(tokens, selective));
    PageReads reads_before;
    WorkerStats stats_before;
    LabProgress progress(stderr, "bench scale");
    progress.Begin(fmt::format("{} over {}", attention, FormatCount(tokens)), options_.runs + 1);
    for (int run = 0; run <= options_.runs; ++run) {
      const auto step = static_cast<uint64_t>(run);
      const std::vector<float> q = stream_.Queries(tokens, step);
      const int64_t begin_us = SystemClock().NowUs();
      VARVE_TRY(const std::vector<float> output, group.Step(request, q, values, values));
      const double seconds = static_cast<double>(SystemClock().NowUs() - begin_us) * 1e-6;
      const PageReads reads = group.ReadsOf(request).value_or(PageReads());
      if (run == 0) {
        reads_before = reads;
        stats_before = group.Stats();
      } else {
        figure.seconds.push_back(seconds);
        figure.needles += options_.shape.num_kv_heads;
        figure.needles_found += stream_.NumFound(tokens, step, output.data());
      }
      figure.pages_read = reads.read - reads_before.read;
      figure.pages_total = reads.total - reads_before.total;
      figure.error_bound = reads.error_bound.value_or(0.0F);
      progress.AdvanceTo(run + 1);
    }
    figure.reads = Difference(group.Stats(), stats_before);
    VARVE_RETURN_IF_ERROR(group.CloseRequest(request));
    return figure;
  }

  static WorkerStats Difference(WorkerStats after, const WorkerStats& before) {
    after.page_reads_device -= before.page_reads_device;
    after.page_reads_host -= before.page_reads_host;
    after.page_reads_disk -= before.page_reads_disk;
    after.disk_bytes_read -= before.disk_bytes_read;
    return after;
  }

  double BitsPerValue() const {
    return 8 * bytes_per_token_ / static_cast<double>(2 * stream_.width());
  }

  void Print(const Figure& figure) const {
    const double median = Quantile(figure.seconds, 0.5);
    const double p90 = Quantile(figure.seconds, 0.9);
    const auto steps = static_cast<double>(figure.seconds.size());
    const double share = figure.pages_total > 0 ? static_cast<double>(figure.pages_read) /
                                                      static_cast<double>(figure.pages_total)
                                                : 1.0;
    const double bytes = share * bytes_per_token_ * static_cast<double>(figure.tokens);
    const double roof = bytes / roofs_.read_bytes_per_s / median;
    const std::string shape = fmt::format("{}:{}x{}",
                                          options_.shape.num_qo_heads,
                                          options_.shape.num_kv_heads,
                                          options_.shape.head_dim);
    const bool is_known = std::isfinite(figure.error_bound);
    if (options_.json) {
      using Json = nlohmann::ordered_json;
      const Json row = {
          {"bench", "scale_" + figure.attention},
          {"shape", shape},
          {"codec", options_.codec},
          {"bpe", BitsPerValue()},
          {"tokens", figure.tokens},
          {"threads", threads_},
          {"workers", options_.workers},
          {"median_ms", median * 1000},
          {"p90_ms", p90 * 1000},
          {"tokens_per_s", 1 / median},
          {"roof_fraction", roof},
          {"read_share", share},
          {"pages_device", static_cast<double>(figure.reads.page_reads_device) / steps},
          {"pages_host", static_cast<double>(figure.reads.page_reads_host) / steps},
          {"pages_disk", static_cast<double>(figure.reads.page_reads_disk) / steps},
          {"disk_bytes_per_step", static_cast<double>(figure.reads.disk_bytes_read) / steps},
          {"error_bound", is_known ? Json(figure.error_bound) : Json()},
          {"needles_found", figure.needles_found},
          {"needles", figure.needles},
          {"device_budget_bytes", figure.device_budget},
          {"host_budget_bytes", figure.host_budget}};
      fmt::print("{}\n", row.dump());
      return;
    }
    fmt::print(
        "{:<13} {} {} {:.3f} bpe {:>10} tokens  {} threads  {} workers  {:>9.2f} ms a step (p90 "
        "{:.2f})  roof {:.3f}  {:.2f} % of the pages: {:.0f} device, {:.0f} host, {:.0f} disk  "
        "error bound {}  {} of {} needles  budgets {}, {}\n",
        "scale_" + figure.attention,
        shape,
        options_.codec,
        BitsPerValue(),
        FormatCount(figure.tokens),
        threads_,
        options_.workers,
        median * 1000,
        p90 * 1000,
        roof,
        share * 100,
        static_cast<double>(figure.reads.page_reads_device) / steps,
        static_cast<double>(figure.reads.page_reads_host) / steps,
        static_cast<double>(figure.reads.page_reads_disk) / steps,
        figure.attention == "exact"
            ? "-"
            : (is_known ? fmt::format("{:.3f}", figure.error_bound) : std::string("unknown")),
        figure.needles_found,
        figure.needles,
        FormatBytes(figure.device_budget),
        FormatBytes(figure.host_budget));
  }

  const ScaleBenchOptions& options_;
  const int threads_;
  const ScaleStream stream_;
  KvPolicy policy_;
  AttentionGroupOptions group_options_;
  Roofs roofs_;
  double bytes_per_token_ = 0;
};

Result<void> RunBench(const ScaleBenchOptions& options) {
  VARVE_RETURN_IF_ERROR(Check(options));
  if (!options.data_dir.empty()) {
    return Bench(options, options.data_dir).Run();
  }
  VARVE_TRY(const TemporaryDirectory temporary, TemporaryDirectory::Make());
  return Bench(options, temporary.path()).Run();
}

}  // namespace

int RunScaleBench(const ScaleBenchOptions& options) {
  InitLogging("warn");
  const Result<void> done = RunBench(options);
  if (!done && done.error().code == ErrorCode::kInvalidArgument) {
    return ReportUsageError("bench scale", done.error().message);
  }
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace varve::cli
